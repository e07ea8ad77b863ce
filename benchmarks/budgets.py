"""Compare strategies at equal bytes: ten tasks of CIFAR-100 within budgets of what is kept between tasks.

    python benchmarks/budgets.py --data-dir DIR --out budgets --csv --png

DIR holds CIFAR-100, and the weights unless ``--weights`` names their file. All strategies see the same images
in the same class order, as often, without augmentation. A row is a strategy within a budget; one that would
keep more is refused, and its row holds the line that says so. Each run leaves its record in ``--out``; runs
that are there already are not repeated, and a stopped one is resumed. ``--csv`` and ``--png`` also write the
table and the picture into benchmarks/results. Nothing is chosen on the test images.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from cifar100 import questions, ten_tasks
from tables import as_csv, finished

from clbench import strategies
from clbench.errors import UserError
from clbench.files import make_folder, write_text
from clbench.options import option_types
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import MEMORY, RunSpec
from clbench.report import group_runs
from clbench.report.columns import metrics_of
from clbench.report.pictures import equal_bytes

STRATEGIES = ("er-linear", "er-adapter", "icarl-adapter", "lae-adapter", "simplecil", "slda")
BUDGETS = "0.1MB,0.3MB,1MB,3MB"
COUNTS = {"image_size": 96, "epochs": 5, "batch_size": 10, "train_per_class": 20, "test_per_class": 10}
RESULTS = Path(__file__).parent / "results"
FIELDS = (
    *("strategy", "budget", "seeds", "accuracy", "accuracy_std", "average", "forgetting"),
    *("stored_bytes", "memory_size", "refused"),
)


def main() -> None:
    """Fill the table row by row."""
    parser = questions(__doc__, network="vit_tiny_patch16_224", **COUNTS)
    parser.add_argument("--out", type=Path, default=Path("budgets"))
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="names, by commas")
    parser.add_argument("--budgets", default=BUDGETS, help="bytes, by commas")
    parser.add_argument("--seeds", default="0,1", help="numbers, by commas")
    parser.add_argument("--csv", action="store_true", help="write the table into benchmarks/results, too")
    parser.add_argument("--png", action="store_true", help="write the picture there, too")
    options = parser.parse_args()
    make_folder(options.out)
    rows: list[dict[str, object]] = []
    made: list[Record] = []
    for budget in options.budgets.split(","):
        for name in options.strategies.split(","):
            specs = [spec_of(name, budget, int(seed), options) for seed in options.seeds.split(",")]
            try:
                records = [finished(spec, options.out, options.data_dir) for spec in specs]
            except UserError as error:
                if not error.options_are_at_fault:
                    raise
                rows.append({**dict.fromkeys(FIELDS, ""), **named(specs[0]), "refused": str(error)})
            else:
                made += records
                rows.append(measured(records))
            print(*rows[-1].values(), flush=True)
            write_text(options.out / "budgets.csv", as_csv(rows))
    pictures = [options.out / "equal-bytes.png", *([RESULTS / "equal-bytes.png"] if options.png else [])]
    for file in pictures if made else ():
        equal_bytes(group_runs(made)).save(file)
    if options.csv:
        write_text(RESULTS / "budgets.csv", as_csv(rows))


def spec_of(name: str, budget: str, seed: int, options: argparse.Namespace) -> RunSpec:
    """Return the run of a strategy within a budget; all have the same epochs and batches."""
    allowed = option_types(strategies.get(name))
    common = {"epochs": options.epochs, "batch_size": options.batch_size}
    chosen = {key: value for key, value in common.items() if key in allowed}
    strategy = {"name": name, **chosen}
    return resolve({**ten_tasks(options), "strategy": strategy, "run": {"seed": seed, "budget": budget}})


def named(spec: RunSpec) -> dict[str, object]:
    """Return what a row is of."""
    return {"strategy": f"{spec.strategy.name}-{spec.petl.name}", "budget": spec.run.budget}


def measured(records: list[Record]) -> dict[str, object]:
    """Return what the table says of a strategy within a budget: means, in percent and bytes."""
    metrics = [metrics_of(record) for record in records]
    costs = [record.read_json("costs.json") for record in records]
    accuracies = [100 * each["accuracy"] for each in metrics]

    def mean(name: str) -> float:
        return round(100 * statistics.mean(each[name] for each in metrics), 1)

    values = {
        **named(records[0].spec),
        "seeds": len(records),
        "accuracy": round(statistics.mean(accuracies), 1),
        "accuracy_std": round(statistics.stdev(accuracies), 1) if len(records) > 1 else "",
        "average": mean("average-incremental-accuracy"),
        "forgetting": mean("forgetting"),
        "stored_bytes": round(statistics.mean(each["stored_bytes"]["total"] for each in costs)),
        "memory_size": records[0].spec.strategy.options.get(MEMORY, ""),
        "refused": "",
    }
    return {field: values[field] for field in FIELDS}


if __name__ == "__main__":
    main()
