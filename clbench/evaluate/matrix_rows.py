"""Keep the accuracy matrix up to date by the row that each evaluation adds, without reading those before."""

from __future__ import annotations

import numpy as np

from clbench.evaluate.results import Log, Matrix, shares


class MatrixRows:
    """What is known of the matrices R[i, j] of T tasks: accuracy on task j after task i, and masked."""

    def __init__(self, num_tasks: int) -> None:
        """Know nothing yet."""
        self.accuracy: Matrix = np.full((num_tasks, num_tasks), np.nan)
        self.masked: Matrix = np.full((num_tasks, num_tasks), np.nan)
        self.untrained: Matrix | None = None  # (T,): before the first task

    def read(self, predictions: Log) -> None:
        """Count the logs of several evaluations, one after another."""
        after_task = predictions["after_task"]
        for task in np.unique(after_task).tolist():
            chosen = after_task == task
            self.add(task, {name: values[chosen] for name, values in predictions.items()})

    def add(self, after_task: int, log: Log) -> None:
        """Count the hits of the evaluation after a task; -1: before the first."""
        task, num_tasks = log["task"].astype(np.int64), len(self.accuracy)
        right, masked = (
            shares(task, log[name] == log["label"], (1, num_tasks))[0]
            for name in ("prediction", "masked_prediction")
        )
        if after_task < 0:
            self.untrained = right
        else:
            self.accuracy[after_task], self.masked[after_task] = right, masked
