"""Hold what predictions say: accuracy after each task on each task, the last evaluation, and looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbench.evaluate.looks import Anytime
from clbench.evaluate.representations import Representations

Matrix = NDArray[np.float64]
Log = Mapping[str, NDArray[Any]]
SCORE_TYPES = {  # of a log's columns that come from scores, see clbench.evaluate.digest
    "prediction": "int32",
    "masked_prediction": "int32",
    "confidence": "float32",
    "label_score": "float32",
    "sum_squares": "float32",
    "old_score": "float32",
    "new_score": "float32",
    "beaten_in": "int16",
}
LOG_TYPES = {"after_task": "int16", "task": "int16", "row": "int64", "label": "int32", **SCORE_TYPES}
COLUMNS = ("after_task", "task", "prediction", "masked_prediction", "label", "confidence")  # needed of a log


@dataclass(frozen=True)
class Results:
    """All that the metrics are computed from; T tasks, indices from 0, NaN where nothing was measured."""

    accuracy: Matrix  # (T, T): R[i, j], on the test images of task j after task i
    masked: Matrix  # (T, T): the same, choosing only among the classes of task j
    num_test: NDArray[np.int64]  # (T,): test images of each task
    last: Log = field(default_factory=dict)  # columns of the last evaluation's log, (n,) each, tasks seen
    task_found: Matrix | None = None  # (T, T): share of task j's images given to a class of task j
    class_accuracy: Matrix | None = None  # (T, C): on the test images of class c of the tasks seen
    cumulative: Matrix | None = None  # (T, T): on tasks up to j after task i, choosing among their classes
    untrained: Matrix | None = None  # (T,): accuracy on each task before the first
    anytime: Anytime | None = None  # what was seen while the learner learnt
    reliability: Log | None = None  # counts by class and bin of confidence, see clbench.evaluate.reliability
    representations: Representations | None = None  # of the probe set after each task

    @classmethod
    def from_log(
        cls,
        log: Log,
        num_tasks: int,
        anytime: Anytime | None = None,
        reliability: Log | None = None,
        representations: Representations | None = None,
    ) -> Results:
        """Count the hits in a prediction log: columns with one row an image an evaluation.

        A log without columns is that of a run that has not been evaluated yet. Rows after task -1 are of the
        untrained learner.
        """
        log = log or dict.fromkeys(COLUMNS, np.zeros(0))
        is_before = log["after_task"] < 0
        before, log = _chosen(log, is_before), _chosen(log, ~is_before)
        after = log["after_task"].astype(np.int64)
        task = log["task"].astype(np.int64)
        prediction, masked, label = log["prediction"], log["masked_prediction"], log["label"].astype(np.int64)
        num_classes = 1 + label.max(initial=-1)
        seen = task <= after

        def rate(hit: NDArray[np.bool_]) -> Matrix:
            return shares(after * num_tasks + task, hit, (num_tasks, num_tasks))

        cell = (after * num_classes + label)[seen]
        return cls(
            accuracy=rate(prediction == label),
            masked=rate(masked == label),
            num_test=_counts(after * num_tasks + task, (num_tasks, num_tasks)).max(axis=0),
            last=_chosen(log, seen & (after == after.max(initial=0))),
            # the best class of all is also the best of its own task, so the two agree where the task is right
            task_found=rate(prediction == masked),
            class_accuracy=shares(cell, (prediction == label)[seen], (num_tasks, num_classes)),
            cumulative=_cumulative(_chosen(log, seen), num_tasks) if "beaten_in" in log else None,
            untrained=_untrained(before, num_tasks) if is_before.any() else None,
            anytime=anytime,
            reliability=reliability,
            representations=representations,
        )

    @property
    def confidence(self) -> Matrix:
        """The shares (n,) of the last evaluation's predictions in the scores; NaN: not known."""
        confidence: Matrix = self.last.get("confidence", np.zeros(0)).astype(np.float64)
        return confidence

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the last evaluation's predictions are right, (n,)."""
        empty = np.zeros(0)
        right: NDArray[np.bool_] = np.equal(self.last.get("prediction", empty), self.last.get("label", empty))
        return right

    @property
    def is_tested(self) -> NDArray[np.bool_]:
        """Which tasks have test images (T,), or have not been evaluated: it is not known of those."""
        return is_tested(self.accuracy)

    @property
    def num_tasks(self) -> int:
        """Number of tasks in the stream, evaluated or not."""
        return len(self.accuracy)


def is_tested(accuracy: Matrix) -> NDArray[np.bool_]:
    """Return which tasks have a test, (T,): in a stream without boundaries those that bring new classes."""
    known = ~np.isnan(accuracy)
    tested: NDArray[np.bool_] = np.logical_or(known.any(axis=0), ~known.any(axis=1))  # or never evaluated
    return tested


def _chosen(log: Log, rows: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    return {name: values[rows] for name, values in log.items()}


def _untrained(log: Log, num_tasks: int) -> Matrix:
    task = log["task"].astype(np.int64)
    return shares(task, log["prediction"] == log["label"], (1, num_tasks)).reshape(-1)


def _cumulative(log: Log, num_tasks: int) -> Matrix:
    """Return the accuracy on all tasks up to j, choosing among their classes: row: after which, column: j.

    An image is right among the classes of tasks up to j if no class of those tasks beats its own.
    """
    after, task, beaten = (log[name].astype(np.int64) for name in ("after_task", "task", "beaten_in"))
    beaten = np.where(beaten < 0, num_tasks, beaten)
    # An image counts in the columns from its task to the last seen, and is right up to where it is beaten.
    num = _steps(after, task, after + 1, num_tasks)
    right = _steps(after, task, np.clip(beaten, task, after + 1), num_tasks)
    return _ratio(right, num)


def _steps(
    row: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64], num_tasks: int
) -> NDArray[np.int64]:
    """Count, in each cell (T, T), the images of its row from whose start to before whose stop it lies."""
    shape = num_tasks, num_tasks + 1
    first, stops = (_counts(row * shape[1] + column, shape) for column in (start, stop))
    counts: NDArray[np.int64] = (first - stops).cumsum(axis=1)[:, :-1]
    return counts


def shares(cell: NDArray[np.int64], hit: NDArray[np.bool_], shape: tuple[int, int]) -> Matrix:
    """Return the share of hits in each cell, NaN where there is no row."""
    return _ratio(_counts(cell[hit], shape), _counts(cell, shape))


def _ratio(hits: NDArray[np.int64], num: NDArray[np.int64]) -> Matrix:
    ratio: Matrix = np.divide(hits, num, out=np.full(num.shape, np.nan), where=num > 0)
    return ratio


def _counts(cell: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int64]:
    return np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
