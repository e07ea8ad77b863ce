"""Lay out one finished run for a terminal: accuracy matrix, metrics, costs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group as Stacked
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from clbench.evaluate import METRICS
from clbench.evaluate.means import mean
from clbench.evaluate.results import is_tested
from clbench.records.record import Record
from clbench.report.columns import CAPACITY, costs_shown, metrics_of, values_of
from clbench.report.units import UNKNOWN, matrix_cell, metric_value, quantity, seconds

MAIN = (
    *("accuracy", "accuracy-micro", "average-incremental-accuracy", "forgetting", "bwt", "learning-accuracy"),
    *("accuracy-masked", "task-inference", "accuracy-cumulative", "old-as-new", "ece", "nll"),
)
MAIN_IF_KNOWN = (
    *("anytime-accuracy", "anytime-auc", "prequential-accuracy", "min-accuracy", "worst-case-accuracy"),
    *("stability-gap", "recovery-steps", "fwt", "cka", "representation-drift", "accuracy-probed"),
)
WIDEST_MATRIX = 10  # tasks; more do not fit into 80 columns
LONGEST_MATRIX = 24  # rows of tasks; of more, those in the middle are left out
NAN = float("nan")


def run_tables(record: Record) -> RenderableType:
    """Return the accuracy matrix, and below it the metrics beside the costs."""
    record = record.remembering()
    accuracy = np.array(record.read_json("matrix.json")["accuracy"], dtype=np.float64)
    matrix = _matrix(accuracy) if len(accuracy) <= WIDEST_MATRIX else _compact_matrix(accuracy)
    values = values_of(record)
    metrics = _pairs("metric", "%", _metrics(metrics_of(record)))
    costs = _pairs("cost", "", _costs(values))
    below = Table.grid(padding=(0, 4))
    below.add_row(metrics, costs)
    heading = "Accuracy in %, after each task (row) on each task (column)"
    heading += ", scored on validation images" if record.spec.run.scored_on == "validation" else ""
    return Stacked(Text(heading, style="bold"), matrix, below)


def _matrix(accuracy: NDArray[np.float64]) -> Table:
    table = _plain_table()
    table.add_column("after", justify="right")
    for task in range(len(accuracy)):
        table.add_column(str(task + 1), justify="right")
    table.add_column("mean", justify="right")
    tested = is_tested(accuracy)
    for task, row in enumerate(accuracy):
        cells = [_cell(value) for value in row[: task + 1]]
        cells[-1].stylize("bold")
        blank = [Text("")] * (len(accuracy) - task - 1)
        table.add_row(str(task + 1), *cells, *blank, _cell(mean(row[: task + 1], tested[: task + 1])))
    return table


def _compact_matrix(accuracy: NDArray[np.float64]) -> Table:
    """Return a row a task, with what the whole row of the matrix comes to."""
    table = _plain_table()
    for heading in ("after", "mean", "newest task", "earlier tasks", "first task", "lowest", "on task"):
        table.add_column(heading, justify="right")
    tested, num_tasks = is_tested(accuracy), len(accuracy)
    for task in _some(num_tasks):
        if task is None:
            table.add_row("...", *[Text("...", style="dim")] * 6)
            continue
        row, seen = accuracy[task], accuracy[task, : task + 1]
        lowest = "–" if np.isnan(seen).all() else str(int(np.nanargmin(seen)) + 1)
        numbers = (
            mean(seen, tested[: task + 1]),
            seen[-1],
            mean(seen[:-1], tested[:task]),
            row[0],
            np.nan if lowest == "–" else np.nanmin(seen),
        )
        table.add_row(str(task + 1), *map(_cell, numbers), lowest)
    return table


def _some(num_tasks: int) -> list[int | None]:
    """Return the tasks that have a row; None stands for those that are left out."""
    if num_tasks <= LONGEST_MATRIX:
        return list(range(num_tasks))
    half = LONGEST_MATRIX // 2
    return [*range(half), None, *range(num_tasks - half, num_tasks)]


def _metrics(values: dict[str, float]) -> list[tuple[str, str]]:
    """Write the metrics that most runs are asked for, and how many more are known."""
    always = [(name, metric_value(name, values[name])) for name in MAIN if name in values]
    of_others = [name for name in values if name in METRICS and METRICS[name].is_of_others]
    shown_if_known = [*MAIN_IF_KNOWN, *of_others]  # who brings a metric wants to see it
    if_known = [
        (name, metric_value(name, values[name]))
        for name in shown_if_known
        if not np.isnan(values.get(name, NAN))
    ]
    more = sum(not np.isnan(value) for name, value in values.items() if name not in {*MAIN, *shown_if_known})
    return [*always, *if_known, *([(f"{more} more in metrics.json", "")] if more else [])]


def _costs(values: dict[str, float]) -> list[tuple[str, str]]:
    rows = [
        ("parameters", quantity(values.get("parameters.total", NAN))),
        ("  trainable", quantity(values.get("parameters.trainable", NAN))),
        ("stored", quantity(values.get("stored_bytes.total", NAN), unit="B")),
        ("  packed", quantity(values.get("packed_bytes.total", NAN), unit="B")),
        ("training", quantity(values.get("flops.training", NAN), unit="FLOP")),
        ("  an image", quantity(values.get("flops.train_per_image", NAN), unit="FLOP")),
        ("evaluation", quantity(values.get("flops.evaluate", NAN), unit="FLOP")),
        ("  an image", quantity(values.get("flops.evaluate_per_image", NAN), unit="FLOP")),
        ("peak memory", quantity(values.get("memory.process.peak", NAN), unit="B")),
        ("  accelerator", quantity(values.get("memory.accelerator.peak", NAN), unit="B")),
    ]
    if CAPACITY in costs_shown([values]):
        rows.insert(3, ("  if full", quantity(values[CAPACITY.key], unit="B")))
    besides = 0.0  # in phases that handle no images
    for phase in _phases(values):
        images, spent = values.get(f"time.{phase}.images", 0), values[f"time.{phase}.seconds"]
        if not images:
            besides += spent
            continue
        rows.append((f"{phase} time", seconds(spent)))
        if spent:
            rows.append(("", quantity(images / spent, unit="images/s")))
    rows.append(("time besides", seconds(besides)))
    energy = [values.get(f"energy.{kind}", NAN) for kind in ("cpu", "accelerator")]
    known = [joules for joules in energy if not np.isnan(joules)]
    return [*rows, ("energy", quantity(sum(known) if known else NAN, unit="J"))]


def _phases(values: Iterable[str]) -> list[str]:
    parts = [key.split(".") for key in values]
    return [part[1] for part in parts if part[0] == "time" and part[-1] == "seconds"]


def _plain_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def _pairs(left: str, right: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(left)
    table.add_column(right, justify="right")
    for name, text in rows:
        table.add_row(name, Text(text, style="dim" if text == UNKNOWN else ""))
    return table


def _cell(value: float) -> Text:
    return Text("–", style="dim") if np.isnan(value) else Text(matrix_cell(float(value)))
