"""Tabulate online learners on one pass over ten tasks of CIFAR-100, from scratch, ten images at a time.

    python benchmarks/online.py --data-dir DIR --out online

DIR holds CIFAR-100. A slim ResNet-18 at 32 pixels learns from random weights, with plain SGD at 0.1, batches
of 10 new images, 10 from a memory (supervised contrastive replay: 100), the same order of images for all. The
learner is looked at every ``--eval-every`` steps on ``--eval-images`` test images a task, and on all of them
after each task; anytime accuracy is the mean over these looks. A row is ``<strategy>``, with options as in
``--rows er generative:augment=all``. Each run leaves its record in ``--out``; runs that are there already are
not repeated, and a stopped one is resumed. Nothing is chosen on the test images.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from tables import as_csv, best_first, finished

from clbench import strategies
from clbench.files import write_text
from clbench.options import option_types
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec

ROWS = (
    *("naive", "er", "er-ace", "derpp", "scr"),
    *("generative", "generative:proxy_scale=2", "generative:proxy_scale=2,augment=all"),
)
RESULTS = Path(__file__).parent / "results" / "online.csv"
MEASURED = {  # column: metric
    "accuracy": "accuracy",
    "anytime": "anytime-accuracy",
    "forgetting": "forgetting",
}
PHASES = {"training_seconds": ("train",), "evaluation_seconds": ("evaluate", "watch")}


def main() -> None:
    """Fill the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("online"), help="folder of the runs' records")
    parser.add_argument("--table", type=Path, default=RESULTS)
    parser.add_argument("--rows", nargs="*", default=ROWS, help="as NAME or NAME:option=value,...")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--train-per-class", type=int, default=200, help="0: all there are")
    parser.add_argument("--test-per-class", type=int, default=20, help="0: all there are")
    parser.add_argument("--memory-size", type=int, default=1000)
    parser.add_argument("--augment", default="crop-flip", help="of methods that augment")
    parser.add_argument("--eval-every", type=int, default=100, help="steps between looks")
    parser.add_argument("--eval-images", type=int, default=50, help="test images of a task in a look")
    options = parser.parse_args()
    done: list[dict[str, object]] = []
    for row in options.rows:
        records = [run(row, seed, options) for seed in range(options.seeds)]
        done.append(measured(row, records))
        write_text(options.table, as_csv(best_first(done)))
        print(*done[-1].values(), flush=True)


def spec_of(row: str, seed: int, options: argparse.Namespace) -> RunSpec:
    """Return the run of a row."""
    name, _, settings = row.partition(":")
    chosen = dict(item.split("=") for item in settings.split(",") if item)
    memory = {"memory_size": options.memory_size} if has_memory(name) else {}
    sections: dict[str, dict[str, Any]] = {
        "stream": {
            "name": "split-cifar100",
            "tasks": "10",
            "order": "1993",
            "online": 10,
            "augment": options.augment,
            "validation_rate": 0.0,
            "train_per_class": options.train_per_class,
            "test_per_class": options.test_per_class,
        },
        "strategy": {"name": name, **memory, **from_scratch(name), **chosen},
        "petl": {"name": "full"},
        "backbone": {"name": "slim-resnet18", "weights": "none"},
        "run": {
            "seed": seed,
            "eval_every": options.eval_every,
            "eval_images": options.eval_images,
            "prequential": False,  # it would look at the memory anew before each step
        },
    }
    return resolve(sections)


def has_memory(name: str) -> bool:
    """Tell whether a strategy has a memory of so many images."""
    return "memory_size" in option_types(strategies.get(name))


def from_scratch(name: str) -> dict[str, object]:
    """Return the optimiser of this table, for a strategy without one of its own for it."""
    own = strategies.get(name).recipes.get("online+full", {})
    return {} if own else {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0}


def run(row: str, seed: int, options: argparse.Namespace) -> Record:
    """Return the record of a row's run."""
    return finished(spec_of(row, seed, options), options.out, options.data_dir)


def measured(row: str, records: list[Record]) -> dict[str, object]:
    """Return what the table says of a row: percent, mean and deviation, and seconds of a processor."""
    facts: dict[str, object] = {"row": row, "seeds": len(records)}
    metrics = [record.read_json("metrics.json") for record in records]
    for column, name in MEASURED.items():
        values = [100 * each[name] for each in metrics if each[name] is not None]
        facts[column] = round(statistics.mean(values), 1) if values else ""
        facts[f"{column}_std"] = round(statistics.stdev(values), 1) if len(values) > 1 else ""
    clocks = [record.read_json("costs.json")["time"] for record in records]
    for column, phases in PHASES.items():
        sums = [sum(clock[phase]["cpu_seconds"] for phase in phases if phase in clock) for clock in clocks]
        facts[column] = round(statistics.mean(sums))
    return facts


if __name__ == "__main__":
    main()
