"""Hold what a run's predictions say: accuracy after each task on each task, last confidences, and looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbench.evaluate.looks import Anytime

Matrix = NDArray[np.float64]
COLUMNS = ("after_task", "task", "prediction", "masked_prediction", "label", "confidence")  # needed of a log


@dataclass(frozen=True)
class Results:
    """All that the metrics are computed from; T tasks, indices from 0, NaN where nothing was measured."""

    accuracy: Matrix  # (T, T): R[i, j], on the test images of task j after task i
    masked: Matrix  # (T, T): the same, choosing only among the classes of task j
    num_test: NDArray[np.int64]  # (T,): test images of each task
    confidence: Matrix  # (n,): of the last evaluation's predictions, their share in the scores
    correct: NDArray[np.bool_]  # (n,): whether the last evaluation's predictions are right
    task_found: Matrix | None = None  # (T, T): share of task j's images given to a class of task j
    class_accuracy: Matrix | None = None  # (T, C): on the test images of class c after task i
    anytime: Anytime | None = None  # what was seen while the learner learnt

    @classmethod
    def from_log(
        cls, log: Mapping[str, NDArray[Any]], num_tasks: int, anytime: Anytime | None = None
    ) -> Results:
        """Count the hits in a prediction log: columns with one row an image an evaluation.

        A log without columns is that of a run that has not been evaluated yet.
        """
        log = log or dict.fromkeys(COLUMNS, np.zeros(0))
        after = log["after_task"].astype(np.int64)
        task = log["task"].astype(np.int64)
        prediction, masked, label = log["prediction"], log["masked_prediction"], log["label"].astype(np.int64)
        num_classes = 1 + label.max(initial=-1)

        def rate(hit: NDArray[np.bool_], group: NDArray[np.int64] = task, width: int = num_tasks) -> Matrix:
            return _shares(after * width + group, hit, (num_tasks, width))

        last = after == after.max(initial=0)
        return cls(
            accuracy=rate(prediction == label),
            masked=rate(masked == label),
            num_test=_counts(after * num_tasks + task, (num_tasks, num_tasks)).max(axis=0),
            confidence=log["confidence"][last].astype(np.float64),
            correct=(prediction == label)[last],
            # the best class of all is also the best of its own task, so the two agree where the task is right
            task_found=rate(prediction == masked),
            class_accuracy=rate(prediction == label, label, num_classes),
            anytime=anytime,
        )

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


def _shares(cell: NDArray[np.int64], hit: NDArray[np.bool_], shape: tuple[int, int]) -> Matrix:
    """Return the share of hits in each cell, NaN where there is no row."""
    hits, num = _counts(cell[hit], shape), _counts(cell, shape)
    shares: Matrix = np.divide(hits, num, out=np.full(shape, np.nan), where=num > 0)
    return shares


def _counts(cell: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int64]:
    return np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
