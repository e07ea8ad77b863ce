"""Measure what a task costs besides training and prediction, in streams of 10, 100 and 1,000 tasks.

    python benchmarks/many_tasks.py [--tasks 10 100 1000] [--out DIR]

Each task brings one class: three training images and one test image of random pixels, which ``simplecil``
learns on cached features of the embedded network. What is not spent on training, encoding or predicting is
bookkeeping: the record, checkpoints, the accuracy matrix, counting operations, figures. It is given in
milliseconds a task of CPU time, which other work on the machine changes least. The share of the time on the
clock that costs.json accounts for stands beside.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import clbench

LEARNING = ("train", "encode", "evaluate")
TRAIN_IMAGES, TEST_IMAGES = 3, 1  # of a class
SIDE = 8  # pixels


def main() -> None:
    """Print a row for each number of tasks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--out", type=Path, help="where the records are to stay; by default they do not")
    options = parser.parse_args()
    print("tasks | accounted % | learning and predicting, ms a task | all else, ms a task (phases)")
    for number in options.tasks:
        with tempfile.TemporaryDirectory() as scratch:
            print(row(number, Path(scratch), options.out or Path(scratch)), flush=True)


def row(number: int, scratch: Path, out: Path) -> str:
    """Run so many tasks, and return what they took."""
    file = scratch / f"{number}-classes.npz"
    write_images(file, number)
    sections: dict[str, Any] = {
        "stream": {"name": f"npz:{file}", "tasks": str(number), "augment": "none", "validation_rate": 0},
        "strategy": {"name": "simplecil-linear"},
        "backbone": {"name": "vit-micro"},
        "run": {},
    }
    spec, execute = clbench.resolve(sections), clbench.execute
    started, cpu_started = time.perf_counter(), time.process_time()
    record = execute(spec, out=out, places=clbench.Places(None, scratch))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    phases = record.read_json("costs.json")["time"]
    accounted = sum(phase["seconds"] for phase in phases.values()) / seconds
    spent = {name: phase["cpu_seconds"] for name, phase in phases.items()}
    learning = sum(spent.get(name, 0.0) for name in LEARNING)
    parts = ", ".join(f"{name} {1000 * value / number:.1f}" for name, value in sorted(spent.items()))
    return (
        f"{number:5d} | {100 * accounted:5.1f} | {1000 * learning / number:7.1f} |"
        f" {1000 * (cpu_seconds - learning) / number:7.1f} ({parts})"
    )


def write_images(file: Path, num_classes: int) -> None:
    """Write images of random pixels around the colour of their class."""
    random = np.random.default_rng(0)
    colour = random.integers(40, 216, (num_classes, 1, SIDE, SIDE, 3))

    def drawn(count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        noise = random.integers(-40, 40, (num_classes, count, SIDE, SIDE, 3))
        pixels = (colour + noise).astype(np.uint8).reshape(-1, SIDE, SIDE, 3)
        return pixels, np.repeat(np.arange(num_classes), count)

    (train_x, train_y), (test_x, test_y) = drawn(TRAIN_IMAGES), drawn(TEST_IMAGES)
    np.savez(file, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)


if __name__ == "__main__":
    main()
