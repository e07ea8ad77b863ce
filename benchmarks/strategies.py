"""Tabulate every strategy on ten tasks of CIFAR-100: accuracy, forgetting, parameters, bytes and time.

    python benchmarks/strategies.py --data-dir DIR --weights vit_tiny_patch16_224.safetensors --out table

DIR holds CIFAR-100. All strategies see the same images in the same class order, as often, without
augmentation, and have their own optimiser and learning rate; what is learnt on frozen features runs with
several seeds, the rest with one. A row is ``<strategy>`` or ``<strategy>-<module>``, with options as in
``--rows aper-ssf lae:ensemble=mean``. Each run leaves its record in ``--out``; runs that are there already
are not repeated, and a stopped one is resumed. Nothing is chosen on the test images.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

from cifar100 import questions, ten_tasks
from scatter import scatter
from tables import as_csv, best_first, finished, known_rows

from clbench import strategies
from clbench.errors import UserError
from clbench.files import write_text
from clbench.options import option_types
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.report.columns import metrics_of

SETTINGS = {  # rates chosen on held-out training images: the papers' are for many times as many steps
    "aper": "learning_rate=0.1",
    "ease": "learning_rate=0.1",
    "ranpac": "learning_rate=0.1,projection=2000",  # a task has 200 images
    "scr": "replay_batch=10",  # as many as the others replay
}
BESIDE = [  # rows beside every strategy with the module that it is registered with
    *("naive-linear", "naive-full", "joint-linear", "joint-full", "lae-lora", "lae-prefix"),
    *("lae:ensemble=mean", "lae:ensemble=evidential", "aper-ssf", "aper-vpt-deep", "aper-full"),
    *("taer-adapter", "er:quality_retaining=two_sample"),
]
COUNTS = {
    "image_size": 96,
    "epochs": 5,
    "batch_size": 10,
    "train_per_class": 20,
    "test_per_class": 10,
    "memory_size": 500,
}
FIELDS = (
    *("row", "module", "seeds", "accuracy", "accuracy_std", "average", "forgetting", "trainable"),
    *("stored_bytes", "cpu_seconds"),
)
SPREAD = "mean ± standard deviation over the seeds of a row, where it has several"


def main() -> None:
    """Fill the table row by row."""
    parser = questions(__doc__, network="vit_tiny_patch16_224", **COUNTS)
    parser.add_argument("--out", type=Path, default=Path("table"))
    parser.add_argument("--rows", nargs="*", help="strategies, as NAME or NAME:option=value,...")
    parser.add_argument("--seeds", type=int, default=3, help="of rows that learn from cached features")
    options = parser.parse_args()
    table = options.out / "strategies.csv"
    done = known_rows(table)
    for row in options.rows or default_rows():
        if row in (each["row"] for each in done):
            continue
        try:
            records = [run(row, 0, options)]
            if learns_from_features(records[0]):
                records += [run(row, seed, options) for seed in range(1, options.seeds)]
        except UserError as reason:
            print(f"{row}: {reason}", flush=True)
            continue
        done.append(measured(row, records))
        write_text(table, as_csv(best_first(done)))
        print(*done[-1].values(), flush=True)
    title = f"CIFAR-100 in ten tasks, {options.train_per_class} training images a class"
    label = "bytes stored between tasks: modules, heads, statistics and memories"
    picture = scatter(done, over="stored_bytes", title=title, below=SPREAD, label=label)
    picture.save(options.out / "strategies.png")


def default_rows() -> list[str]:
    """Return a row for every strategy, and those beside."""
    own = [f"{name}:{SETTINGS[name]}" if name in SETTINGS else name for name in strategies.names()]
    return [*own, *BESIDE]


def spec_of(row: str, seed: int, options: argparse.Namespace) -> RunSpec:
    """Return the run of a row; epochs, batches and memory are the same for all that have them."""
    name, _, settings = row.partition(":")
    allowed = option_types(strategies.get(name))
    common = {
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "memory_size": options.memory_size,
    }
    chosen = {key: value for key, value in common.items() if key in allowed}
    chosen |= dict(item.split("=") for item in settings.split(",") if item)
    sections = ten_tasks(options)
    if "task-identity" in strategies.get(name).needs:
        sections["stream"]["scenario"] = "task"
    return resolve({**sections, "strategy": {"name": name, **chosen}, "run": {"seed": seed}})


def run(row: str, seed: int, options: argparse.Namespace) -> Record:
    """Return the record of a row's run."""
    return finished(spec_of(row, seed, options), options.out, options.data_dir)


def learns_from_features(record: Record) -> bool:
    """Tell whether a training step costs less than a prediction: features were there already."""
    flops = record.read_json("costs.json")["flops"]
    return bool(flops.get("train_per_image", 0) < flops["evaluate_per_image"])


def measured(row: str, records: list[Record]) -> dict[str, object]:
    """Return what the table says of a row, in percent, bytes and seconds of one processor."""
    metrics = [metrics_of(record) for record in records]
    costs = records[0].read_json("costs.json")
    accuracies = [100 * each["accuracy"] for each in metrics]

    def mean(name: str) -> object:
        values = [each[name] for each in metrics]
        return "" if any(map(math.isnan, values)) else round(100 * statistics.mean(values), 1)

    phases = ("train", "evaluate", "encode")
    values = (
        row,
        records[0].spec.petl.name,
        len(records),
        round(statistics.mean(accuracies), 1),
        round(statistics.stdev(accuracies), 1) if len(records) > 1 else "",
        mean("average-incremental-accuracy"),
        mean("forgetting"),
        costs["parameters"]["trainable"],
        costs["stored_bytes"]["total"],
        round(sum(costs["time"].get(phase, {"cpu_seconds": 0})["cpu_seconds"] for phase in phases)),
    )
    return dict(zip(FIELDS, values, strict=True))


if __name__ == "__main__":
    main()
