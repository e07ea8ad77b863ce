"""Measure what it takes to calibrate a quantiser: seconds, peak memory, and how far features are off then.

    python benchmarks/calibration.py --data-dir DIR --weights vit_tiny_patch16_224.safetensors

DIR holds CIFAR-100, of whose training images the quantisers see some. Each row, NAME:option=value,..., is
measured in a process of its own. ``error`` is the features' distance from those in float, relative to their
size, on 64 test images; ``agreement`` the share of 500 test images whose nearest class mean, of means of 50
training images in float for each of ten classes, stays the same. ``first`` and ``later`` are the shares of
test images that class means of the low-bit network itself tell apart: of the first task, on which it is
calibrated, and of later ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from cifar100 import cifar100, questions
from tables import Row, as_csv
from torch import Tensor

from clbench import backbones, quant
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher
from clbench.data.tasks import Task
from clbench.evaluate.memory import PeakMemory
from clbench.files import write_text
from clbench.options import build
from clbench.records.variants import split_text
from clbench.seeds import Seeds

COUNTS = {"image_size": 224}
CHUNK = 50  # images at a time
CLASSES, MEANS_OF, TESTED = 10, 50, 50  # classes, and of each training and test images
LATER = (3, 6, 9)  # tasks, counted from 0


def main() -> None:
    """Measure every row in a process of its own, and print and write the table."""
    parser = questions(__doc__, network="vit_tiny_patch16_224", **COUNTS)
    parser.add_argument("--rows", nargs="*", default=["minmax:bits=4", "adalog:bits=4"])
    parser.add_argument("--out", type=Path, default=Path("calibration.csv"))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measured(options.rows[0], options)))
        return
    rows: list[Row] = []
    for row in options.rows:
        command = [sys.executable, __file__, "--alone", "--rows", row]
        command += ["--data-dir", str(options.data_dir), "--weights", options.weights]
        command += ["--image-size", str(options.image_size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(*rows[-1].values(), flush=True)
    write_text(options.out, as_csv(rows))


def measured(row: str, options: argparse.Namespace) -> Row:
    """Calibrate once, and return what it took and what came of it."""
    named = split_text(row)
    quantiser = build(quant.get(named.pop("name")), "quant", named)
    seeds = Seeds(0)
    stream = cifar100(options.data_dir, seeds, tasks="10")
    about = BackboneOptions(weights=options.weights, image_size=options.image_size)
    backbone = backbones.create("vit_tiny_patch16_224", about)
    task = stream.tasks[0]
    batcher = Batcher(task.train.images, backbone.preprocessing, "none", torch.device("cpu"))
    order = torch.randperm(len(task.train), generator=seeds.generator("calibration"))
    images = batcher.test_batch(task.train.rows[order[: quantiser.num_images].numpy()])
    test = task.test.draw(CLASSES * TESTED, seeds.numpy("test"))
    means = class_means(backbone, batcher, task)
    before = features(backbone, batcher, test.rows)
    memory, start = PeakMemory(torch.device("cpu")), time.perf_counter()
    quantiser.quantise(backbone, images, seeds.generator("quant"))
    seconds, peak = time.perf_counter() - start, memory.process or 0
    after = features(backbone, batcher, test.rows)
    same = nearest(after, means) == nearest(before, means)
    later = [told_apart(backbone, batcher, stream.tasks[each], seeds) for each in LATER]
    return {
        "row": row,
        "image_size": options.image_size,
        "images": len(images),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "peak_bytes": peak,
        "error": round(float((after - before)[:64].norm() / before[:64].norm()), 3),
        "agreement": round(float(same.float().mean()), 3),
        "first": round(told_apart(backbone, batcher, task, seeds), 3),
        "later": round(statistics.mean(later), 3),
    }


def told_apart(backbone: Backbone, batcher: Batcher, task: Task, seeds: Seeds) -> float:
    """Return the share of a task's test images that are nearest to the mean of their own class."""
    means = class_means(backbone, batcher, task)
    test = task.test.draw(CLASSES * TESTED, seeds.numpy("test"))
    classes = torch.from_numpy(task.train.labels).unique()
    found = classes[nearest(features(backbone, batcher, test.rows), means)]
    return float((found == torch.from_numpy(test.labels)).float().mean())


def class_means(backbone: Backbone, batcher: Batcher, task: Task) -> Tensor:
    """Return the mean of some training images' features for each of a task's classes, in order."""
    labels = torch.from_numpy(task.train.labels)
    known = [task.train.rows[(labels == each).nonzero()[:MEANS_OF, 0].numpy()] for each in labels.unique()]
    return torch.stack([features(backbone, batcher, rows).mean(dim=0) for rows in known])


@torch.no_grad()
def features(backbone: Backbone, batcher: Batcher, rows: Tensor) -> Tensor:
    """Return the features of images by their rows."""
    parts = range(0, len(rows), CHUNK)
    return torch.cat([backbone(batcher.test_batch(rows[start : start + CHUNK])) for start in parts])


def nearest(feature: Tensor, means: Tensor) -> Tensor:
    """Return the class with the greatest cosine."""
    return torch.nn.functional.cosine_similarity(feature[:, None], means[None], dim=2).argmax(dim=1)


if __name__ == "__main__":
    main()
