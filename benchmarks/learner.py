"""Measure bundles: their bytes, and the seconds until a fresh process has loaded one and predicted.

    python benchmarks/learner.py --data-dir DIR --weights vit_tiny_patch16_224.safetensors --out learners

DIR holds CIFAR-100. Each strategy learns its 100 classes in two tasks and a few steps, and is saved with the
backbone's weights, without, and without also what only learning on asks for; no training picture goes along.
A process of its own then imports torch and timm, which is not counted, loads the bundle, and predicts one
picture and another. The strategies take turns, and medians are given. Runs and bundles that are in ``--out``
are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from cifar100 import questions
from tables import as_csv, finished

import clbench
from clbench import strategies
from clbench.devices import processor_name
from clbench.files import write_text
from clbench.options import option_types
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec

ROWS = ("simplecil", "slda", "ranpac", "fecam", "naive", "lae", "er", "l2p", "ewc", "icarl")
COUNTS = {"image_size": 224, "train_per_class": 2, "epochs": 1, "batch_size": 10, "rounds": 5}
FRESH = """
import json, sys, time
begun = time.perf_counter()
import timm, torch
import numpy as np
picture = np.random.default_rng(0).integers(0, 256, size=(2, 32, 32, 3), dtype=np.uint8)
times = [begun, time.perf_counter()]
import clbench
learner = clbench.load(sys.argv[1])
times.append(time.perf_counter())
for each in picture:
    learner.predict(each)
    times.append(time.perf_counter())
print(json.dumps([after - before for before, after in zip(times, times[1:])]))
"""
BYTES = ("bundle_bytes", "bytes_without_backbone", "bytes_to_predict_only")
PHASES = ("imports", "load", "first", "second")


def main() -> None:
    """Make the bundles, ask each in processes of its own, and print and write the table."""
    parser = questions(__doc__, network="vit_tiny_patch16_224", **COUNTS)
    parser.add_argument("--out", type=Path, default=Path("learners"))
    parser.add_argument("--rows", nargs="*", default=ROWS, help="strategies")
    options = parser.parse_args()
    features = torch.backends.cpu.get_cpu_capability()
    print(
        f"{processor_name()}, {os.cpu_count()} cores, {features}, {torch.get_num_threads()} threads",
        flush=True,
    )
    bundles = {row: saved(row, options) for row in options.rows}
    seconds: dict[str, list[list[float]]] = {row: [] for row in options.rows}
    for turn in range(options.rounds + 1):
        for row in options.rows:
            asked = in_a_fresh_process(bundles[row][0], options.out / "bytecode")
            if turn:  # before, Python had to compile what it imports, as an installation does
                seconds[row].append(asked)
    rows = [measured(row, bundles[row], seconds[row]) for row in options.rows]
    write_text(options.out / "learner.csv", as_csv(rows))
    print(as_csv(rows), end="")


def saved(row: str, options: argparse.Namespace) -> list[Path]:
    """Return the bundles of a strategy: with the backbone, without, and to predict only."""
    kinds: dict[str, dict[str, bool]] = {
        row: {},
        f"{row}-alone": {"without_backbone": True},
        f"{row}-predicts": {"without_backbone": True, "predict_only": True},
    }
    folders = [options.out / "bundles" / name for name in kinds]
    if not all(folder.exists() for folder in folders):
        learner = clbench.load(finished(spec_of(row, options), options.out, options.data_dir).path)
        for folder, kind in zip(folders, kinds.values(), strict=True):
            if not folder.exists():
                learner.save(folder, **kind)
    return folders


def spec_of(row: str, options: argparse.Namespace) -> RunSpec:
    """Return the run of a strategy with its own module and options, in a few steps."""
    allowed = option_types(strategies.get(row))
    counts = {key: getattr(options, key) for key in ("epochs", "batch_size") if key in allowed}
    stream = {
        "name": "split-cifar100",
        "tasks": "2",
        "augment": "none",
        "validation_rate": 0.0,
        "train_per_class": options.train_per_class,
        "test_per_class": 1,
    }
    backbone = {
        "name": "vit_tiny_patch16_224",
        "weights": options.weights,
        "image_size": options.image_size,
    }
    sections: dict[str, dict[str, Any]] = {
        "stream": stream,
        "strategy": {"name": row, **counts},
        "backbone": backbone,
    }
    return resolve(sections)


def in_a_fresh_process(bundle: Path, compiled: Path) -> list[float]:
    """Return the seconds of each phase; the folder is where Python keeps what it has compiled."""
    command = [sys.executable, "-c", FRESH, str(bundle)]
    known = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled.absolute()), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=known)
    return [float(each) for each in json.loads(done.stdout)]


def measured(row: str, bundles: list[Path], seconds: list[list[float]]) -> dict[str, object]:
    """Return what the table says of a strategy, in bytes and seconds."""
    medians = [round(statistics.median(phase), 3) for phase in zip(*seconds, strict=True)]
    return {
        "row": row,
        "module": clbench.load(bundles[0]).spec.petl.name,
        **dict(zip(BYTES, map(num_bytes, bundles), strict=True)),
        **dict(zip((f"{phase}_seconds" for phase in PHASES), medians, strict=True)),
    }


def num_bytes(folder: Path) -> int:
    """Return the bytes of all files in a bundle."""
    return sum(file.stat().st_size for file in folder.iterdir())


if __name__ == "__main__":
    main()
