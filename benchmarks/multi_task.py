"""Tabulate EMTAL and its parts: one network for several data sets at once, and what it costs to ask it.

    python benchmarks/multi_task.py --data-sets cifar100.npz mini-imagenet-32px.npz --weights FILE

Each file holds one data set, as ``--stream npz:FILE`` reads it, of images of one size; the first classes of
each are a task, and the embedded digits are one more. The task of a test image is told. All rows see the same
images in the same order for as many epochs. At the end a module that can be is merged, and the network's
weights go into timm's own: ``differ`` counts the test images whose class is another one then, ``inference``
is the time of a batch divided by that of timm's network.

The defaults take one processor some four minutes a row and seed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from cifar100 import predictions
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from tables import as_csv

from clbench import backbones, petl, strategies, streams
from clbench.backbones import BackboneOptions
from clbench.data.batches import Batcher
from clbench.data.inputs import Inputs
from clbench.evaluate.costs import count_parameters
from clbench.evaluate.timing import ratio_of_times
from clbench.files import make_folder, write_text
from clbench.options import build
from clbench.runs.evaluator import Columns
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.streams import Places, TaskStream

NETWORK = "vit_tiny_patch16_224"
FULL = {"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-4}
LORA = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05}
ROWS = {
    "union fine-tuning": ("full", {}, FULL),
    "MoEfied LoRA": ("moe-lora", {"fade": "never"}, LORA),
    "+ fading": ("moe-lora", {}, LORA),
    "+ QR: EMTAL": ("moe-lora", {}, {**LORA, "quality_retaining": "two_sample"}),
}
ROUNDS = 30  # of timing


def main() -> None:
    """Fill the table row by row."""
    options = answers()
    make_folder(options.out.parent)
    done = []
    with tempfile.TemporaryDirectory() as folder:
        for row, (module, about, recipe) in ROWS.items():
            started = time.perf_counter()
            recipe = {**recipe, "epochs": options.epochs, "batch_size": 32, "schedule": "cosine"}
            runs = []
            for seed in options.seeds:
                stream = union(options, Path(folder), Seeds(seed))
                learner = Learner(stream, options, seed)
                runs.append(learner.measured(petl.get(module)(**about), recipe))
            seconds = (time.perf_counter() - started) / len(runs)
            means = {name: short(float(np.mean([run[name] for run in runs]))) for name in runs[0]}
            done.append({"row": row, "seeds": len(runs), **means, "seconds": round(seconds)})
            write_text(options.out, as_csv(done))
            print(*done[-1].values(), sep="  ", flush=True)


def short(number: float) -> str:
    """Return a number with as many digits as a table needs, also where it is tiny."""
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def answers() -> argparse.Namespace:
    """Return what the user chose."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-sets", type=Path, nargs="+", required=True)
    parser.add_argument("--weights", default="default", help=f"file of {NETWORK}'s weights")
    parser.add_argument("--out", type=Path, default=Path("multi_task.csv"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    counts = {"classes": 20, "train_per_class": 40, "test_per_class": 25, "epochs": 10, "image_size": 64}
    for name, default in counts.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    return parser.parse_args()


def union(options: argparse.Namespace, folder: Path, seeds: Seeds) -> TaskStream:
    """Return the data sets as tasks of one stream, the task of a test image told."""
    file = folder / "union.npz"
    sizes = pack(options.data_sets, options.classes, file)
    cut = {
        "tasks": ",".join(map(str, sizes)),
        "scenario": "task",
        "augment": "none",
        "validation_rate": 0.0,
        "train_per_class": options.train_per_class,
        "test_per_class": options.test_per_class,
    }
    return streams.get("npz")(file=str(file), **cut).build("npz", Places(folder, folder), seeds)


def pack(data_sets: list[Path], num_classes: int, file: Path) -> list[int]:
    """Put the first classes of each data set, and the digits, behind one another into one file.

    Returns how many classes each has.
    """
    sets = [dict(np.load(path)) for path in data_sets] + [digits(data_sets[0])]
    sizes: list[int] = []
    parts: dict[str, list[NDArray[np.generic]]] = {}
    for each in sets:
        first, size = sum(sizes), min(num_classes, 1 + int(each["train_y"].max()))
        for part in ("train", "test"):
            kept = each[f"{part}_y"] < size
            parts.setdefault(f"{part}_x", []).append(each[f"{part}_x"][kept])
            parts.setdefault(f"{part}_y", []).append(each[f"{part}_y"][kept].astype(np.int64) + first)
        sizes.append(size)
    np.savez(file, **{name: np.concatenate(arrays) for name, arrays in parts.items()})
    return sizes


def digits(beside: Path) -> dict[str, NDArray[np.generic]]:
    """Return the embedded digits, as large as the images of the data set beside them."""
    side = np.load(beside)["train_x"].shape[1]
    grey = load_digits().images.repeat(side // 8, axis=1).repeat(side // 8, axis=2)
    images = np.repeat((grey * 255 / 16).astype(np.uint8)[..., None], 3, axis=3)
    is_test = np.arange(len(images)) % 3 == 0
    labels = load_digits().target
    return {
        "train_x": images[~is_test],
        "train_y": labels[~is_test],
        "test_x": images[is_test],
        "test_y": labels[is_test],
    }


class Learner:
    """One network and one stream, on which a row is learnt."""

    def __init__(self, stream: TaskStream, options: argparse.Namespace, seed: int) -> None:
        """Open the network."""
        self.stream, self.seeds = stream, Seeds(seed)
        self.about = BackboneOptions(weights=options.weights, image_size=options.image_size)
        self.backbone = backbones.create(NETWORK, self.about)
        seen = self.backbone.preprocessing
        self.batcher = Batcher(stream.tasks[0].train.images, seen, stream.augment, torch.device("cpu"))

    def measured(self, module: petl.Petl, recipe: dict[str, object]) -> dict[str, float]:
        """Learn all tasks at once; return the accuracy (%) on each, and what is left after merging."""
        strategy = build(strategies.get("joint"), "strategy", recipe)
        strategy.setup(self.backbone, module, self.seeds)
        (columns,) = predictions(strategy, self.stream, self.batcher, self.seeds)
        right = columns["prediction"] == columns["label"]
        found = {
            f"task {task.index}": 100 * float(right[columns["task"] == task.index].mean())
            for task in self.stream.tasks
        }
        found["mean"] = float(np.mean(list(found.values())))
        found["trained"] = count_parameters(self.backbone, strategy.parts())["trainable"]
        return {**found, **self.deployed(strategy, columns)}

    def deployed(self, strategy: Strategy, columns: Columns) -> dict[str, float]:
        """Merge what merges; return how many predictions differ then, and the time beside timm's network."""
        attached = strategy.parts()["petl"]
        plain = timm.create_model(NETWORK, num_classes=0, img_size=self.about.image_size).eval()
        try:
            attached.merge()
        except TypeError:  # a router that never fades
            merged = False
        else:
            merged = True
            plain.load_state_dict(petl.plain_state_dict(self.backbone), strict=True)
        images = torch.randn(16, 3, *2 * [self.about.image_size], generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            ratio = ratio_of_times(lambda: self.backbone(images), lambda: plain(images), rounds=ROUNDS)
            features = self.backbone(images)
            apart = float((plain(images) - features).abs().max()) if merged else float("nan")
            differ = int((self.predicted(strategy, columns) != columns["prediction"]).sum())
        return {"merged": merged, "differ": differ, "features apart": apart, "inference": ratio}

    def predicted(self, strategy: Strategy, columns: Columns) -> NDArray[np.int64]:
        """Return the classes (n,) that the images of a log get now, among those of their task."""
        found = np.empty(len(columns["row"]), np.int64)
        for task in self.stream.tasks:
            places = np.flatnonzero(columns["task"] == task.index)
            for piece in np.array_split(places, 1 + len(places) // 256):
                scores = strategy.predict(
                    Inputs(batcher=self.batcher, rows=columns["row"][piece], task=task.index)
                )
                found[piece] = np.array(task.classes)[scores[:, task.classes].argmax(dim=1).numpy()]
        return found


if __name__ == "__main__":
    main()
