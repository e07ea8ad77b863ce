"""Measure how long it takes to read many records, and to lay out a report of them.

    python benchmarks/many_runs.py [--records 1000] [--reported 100] [--rounds 5]

One real run on the embedded digits is copied under other seeds and learning rates. Reading takes turns with
the least that anybody must do: parsing the same JSON and TOML files; the medians of both are printed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import clbench
from clbench.evaluate.timing import ratio_of_times
from clbench.records.record import Record
from clbench.report import report

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

READ = ("metrics.json", "costs.json", "matrix.json", "hashes.json", "environment.json")
NUM_SEEDS = 5  # of each group


def one_run(folder: Path) -> Record:
    """Return a short run with everything that a record may hold."""
    sections = {
        "stream": {"name": "split-digits", "train_per_class": 20},
        "backbone": {"name": "vit-micro", "weights": "none"},
        "strategy": {"name": "er-linear", "epochs": 1, "memory_size": 50},
        "run": {"eval_every": 2, "probe_images": 5},
    }
    return clbench.execute(clbench.resolve(sections), out=folder, places=clbench.Places(None, folder))


def copies(record: Record, folder: Path, count: int) -> None:
    """Write so many records that differ in seed and learning rate, and in their accuracy."""
    for number in range(count):
        group, seed = divmod(number, NUM_SEEDS)
        target = folder / f"{group:04}-{seed}"
        shutil.copytree(record.path, target, ignore=shutil.ignore_patterns("checkpoint", "figures"))
        part = record.spec.strategy
        strategy = part.model_copy(update={"options": {**part.options, "learning_rate": 0.001 * (group + 1)}})
        options = record.spec.run.model_copy(update={"seed": seed})
        spec = record.spec.model_copy(update={"strategy": strategy, "run": options})
        copied = replace(record, path=target, spec=spec)
        copied.write_text("spec.toml", spec.to_toml())
        metrics = record.read_json("metrics.json")
        metrics["accuracy"] += 0.001 * group + 0.002 * seed
        copied.write_json("metrics.json", metrics)


def bare(folder: Path) -> Iterator[object]:
    """Parse what a reader of records cannot do without."""
    for spec in folder.glob("*/spec.toml"):
        yield tomllib.loads(spec.read_text(encoding="utf-8"))
        for name in READ:
            yield json.loads((spec.parent / name).read_text(encoding="utf-8"))


def frames(folder: Path) -> None:
    """Load the runs, and make the frames that need no predictions."""
    runs = clbench.load_runs(folder)
    sum(map(len, (runs.runs, runs.metrics, runs.costs, runs.matrix)))


def median_seconds(call: Callable[[], object], rounds: int) -> float:
    """Return the median time of some calls."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--records", type=int, default=1000, help="records to read")
    parser.add_argument("--reported", type=int, default=100, help="records in the report")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of which the median counts")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        record = one_run(root / "one")
        for name, count in (("many", chosen.records), ("reported", chosen.reported)):
            copies(record, root / name, count)
        many, page = root / "many", root / "page.html"
        least = median_seconds(lambda: list(bare(many)), chosen.rounds)
        whole = ratio_of_times(lambda: frames(many), lambda: list(bare(many)), rounds=chosen.rounds)
        print(f"parsing the files of {chosen.records} records: {least:.2f} s")
        print(f"load_runs with frames of runs, metrics, costs and cells: {whole:.2f} times that")
        seconds = median_seconds(lambda: report([root / "reported"], None, page), chosen.rounds)
        print(f"page of {chosen.reported} runs: {seconds:.1f} s, {page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
