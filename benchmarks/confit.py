"""Tabulate ConFiT, each of its parts alone and plain fine-tuning: ResNet-20 over tasks of CIFAR-100.

    python benchmarks/confit.py --data-dir DIR --weights resnet20_cifar10.safetensors --seeds 0 1 2

DIR holds CIFAR-100; the weights are of a ResNet-20 trained on CIFAR-10. The task of a test image is told. All
rows see the same images in the same order for the same epochs, without augmentation. A seed draws the class
order, the heads and the shuffling.

The defaults take one processor some ten minutes a seed. The learning rate is the same in all rows, and higher
than the paper's 0.01, with which fine-tuning forgot 2 points in steps as few as these: too little to compare.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from cifar100 import cifar100, predictions, questions
from tables import as_csv

from clbench import backbones, evaluate, strategies
from clbench.backbones import BackboneOptions
from clbench.data.batches import Batcher
from clbench.evaluate.costs import stored_bytes
from clbench.evaluate.results import Results
from clbench.files import make_folder, write_text
from clbench.options import build
from clbench.petl.full import Full
from clbench.seeds import Seeds
from clbench.streams import TaskStream

ROWS = {
    "fine-tuning": {"cross_convolution": False, "hierarchical": False},
    "with recovered batch norms": {"cross_convolution": True, "hierarchical": False},
    "in stages": {"cross_convolution": False, "hierarchical": True},
    "ConFiT: both": {"cross_convolution": True, "hierarchical": True},
}
COUNTS = {"tasks": 10, "train_per_class": 25, "test_per_class": 20, "epochs": 10, "batch_size": 16}
METRICS = ("accuracy", "forgetting", "learning-accuracy")


def main() -> None:
    """Fill the table row by row."""
    parser = questions(__doc__, **COUNTS, learning_rate=0.05)
    parser.add_argument("--weights", required=True, help="file of the ResNet-20's weights, or none")
    parser.add_argument("--out", type=Path, default=Path("confit.csv"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    make_folder(options.out.parent)
    recipe = {
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
    }
    cut = {
        "tasks": str(options.tasks),
        "order": "random",
        "scenario": "task",
        "validation_rate": 0.0,
        "train_per_class": options.train_per_class,
        "test_per_class": options.test_per_class,
    }
    done = []
    for row, parts in ROWS.items():
        runs = []
        started = time.perf_counter()
        for seed in options.seeds:
            stream = cifar100(options.data_dir, Seeds(seed), **cut)
            runs.append(measured({**recipe, **parts}, options.weights, stream, Seeds(seed)))
        done.append(summary(row, runs, (time.perf_counter() - started) / len(runs)))
        write_text(options.out, as_csv(done))
        print(*done[-1].values(), sep="  ", flush=True)


def measured(recipe: dict[str, object], weights: str, stream: TaskStream, seeds: Seeds) -> dict[str, float]:
    """Learn all tasks from the pre-trained backbone; return the metrics and the bytes stored at the end."""
    backbone = backbones.create("resnet20", BackboneOptions(weights=weights))
    strategy = build(strategies.get("confit"), "strategy", recipe)
    strategy.setup(backbone, Full(), seeds)
    device = torch.device("cpu")
    batcher = Batcher(stream.tasks[0].train.images, backbone.preprocessing, stream.augment, device)
    after = predictions(strategy, stream, batcher, seeds)
    whole = {name: np.concatenate([columns[name] for columns in after]) for name in after[0]}
    whole["after_task"] = np.repeat(np.arange(len(after)), [len(columns["row"]) for columns in after])
    metrics = evaluate.compute(Results.from_log(whole, len(stream.tasks)))
    return {
        **{name: 100 * metrics[name] for name in METRICS},
        "bytes": stored_bytes(strategy.parts())["total"],
    }


def summary(row: str, runs: list[dict[str, float]], seconds: float) -> dict[str, object]:
    """Return the row of the table: means and standard deviations over the seeds."""
    facts: dict[str, object] = {"row": row, "seeds": len(runs)}
    for name in METRICS:
        values = [run[name] for run in runs]
        facts[name] = round(float(np.mean(values)), 1)
        facts[f"{name} std"] = round(float(np.std(values, ddof=1)), 1) if len(runs) > 1 else ""
    return {**facts, "bytes": int(runs[0]["bytes"]), "seconds": round(seconds)}


if __name__ == "__main__":
    main()
