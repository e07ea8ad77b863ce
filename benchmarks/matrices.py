"""Make predictions that have given accuracies: the worked examples that libraries are compared on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from in_avalanche import Log
from numpy.typing import NDArray

from clbench.evaluate import Results, compute

COLUMNS = ("after_task", "task", "label", "prediction")
NUM_IMAGES = 20  # of each task, so that every accuracy here is a whole number of them

Matrix = NDArray[np.float64]


def lower(*rows: Sequence[float]) -> Matrix:
    """Return the accuracies after each task (row) on the tasks so far, NaN elsewhere."""
    matrix = np.full((len(rows), len(rows)), np.nan)
    for place, row in enumerate(rows):
        matrix[place, : len(row)] = row
    return matrix


EARLY = np.array([[0.90, 0.85, 0.10], [0.95, 0.80, 0.20], [0.60, 0.70, 0.90]])  # also before learning a task
UNTRAINED = np.array([0.50, 0.50, 0.05])  # what is known of its tasks before any training
MATRICES = {
    "four tasks": lower([0.90], [0.70, 0.90], [0.60, 0.50, 0.90], [0.55, 0.40, 0.30, 0.90]),
    "late peak": lower([0.90], [0.95, 0.80], [0.60, 0.70, 0.90]),
    "improving": lower([0.50], [0.60, 0.80], [0.70, 0.85, 0.90]),
    "two tasks": lower([0.90], [0.60, 0.80]),
    "early peak": EARLY,
}
UNEQUAL, SIZES = lower([1.0], [0.5, 0.9]), (60, 20)


def log_of(accuracy: Matrix, sizes: Sequence[int] = (), untrained: Matrix | None = None) -> Log:
    """Return predictions of these accuracies; with an untrained model, all tasks share their two classes."""
    sizes = sizes or [NUM_IMAGES] * len(accuracy)
    before = [] if untrained is None else [(-1, untrained)]
    pieces = []
    for after, row in [*before, *enumerate(accuracy)]:
        for task in np.flatnonzero(~np.isnan(row)).tolist():
            place = np.arange(sizes[task])
            label = place % 2 + (2 * task if untrained is None else 0)
            is_right = place < round(row[task] * sizes[task])
            prediction = np.where(is_right, label, (label + 1) % (2 * len(accuracy)))
            pieces.append([np.full_like(place, after), np.full_like(place, task), label, prediction])
    return dict(zip(COLUMNS, np.concatenate(pieces, axis=1), strict=True))


def ours(log: Log) -> dict[str, float]:
    """Return our metrics of predictions without scores."""
    unknown = np.full(len(log["label"]), np.nan)
    whole = {**log, "masked_prediction": log["prediction"], "confidence": unknown}
    return compute(Results.from_log(whole, 1 + int(log["task"].max())))
