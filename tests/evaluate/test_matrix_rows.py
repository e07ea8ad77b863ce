"""Matrices that grow by a row, or are counted at once, are those that a slow count gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clbench.evaluate.matrix_rows import MatrixRows
from clbench.evaluate.results import Results

NUM_TASKS = 6


def log_of(after_task: int, random: np.random.Generator) -> dict[str, NDArray[np.int64]]:
    """Random predictions after a task; task 3 has no test images."""
    seen = [task for task in range(max(after_task, 0) + 1 if after_task >= 0 else NUM_TASKS) if task != 3]
    task = np.repeat(seen, 5)
    label = 2 * task + random.integers(0, 2, len(task))
    num_classes = 2 * (max(seen) + 1)
    return {
        "after_task": np.full(len(task), after_task),
        "task": task,
        "label": label,
        "prediction": random.integers(0, num_classes, len(task)),
        "masked_prediction": 2 * task + random.integers(0, 2, len(task)),
        "confidence": np.ones(len(task)),
        "beaten_in": random.integers(-1, max(seen) + 1, len(task)),
    }


def all_logs() -> list[dict[str, NDArray[np.int64]]]:
    random = np.random.default_rng(0)
    return [log_of(after, random) for after in range(-1, NUM_TASKS)]


def test_rows_that_are_added_give_the_matrices_of_the_whole_log():
    logs, rows = all_logs(), MatrixRows(NUM_TASKS)
    for after, log in zip(range(-1, NUM_TASKS), logs, strict=True):
        rows.add(after, log)
    whole = {name: np.concatenate([log[name] for log in logs]) for name in logs[0]}
    results = Results.from_log(whole, NUM_TASKS)
    np.testing.assert_array_equal(rows.accuracy, results.accuracy)
    np.testing.assert_array_equal(rows.masked, results.masked)
    assert results.untrained is not None
    np.testing.assert_array_equal(rows.untrained, results.untrained)
    assert np.isnan(rows.accuracy[:, 3]).all()


def test_the_cumulative_matrix_is_that_of_a_slow_count():
    logs = all_logs()[1:]
    whole = {name: np.concatenate([log[name] for log in logs]) for name in logs[0]}
    found = Results.from_log(whole, NUM_TASKS).cumulative
    assert found is not None
    for after in range(NUM_TASKS):
        for last in range(NUM_TASKS):
            chosen = (whole["after_task"] == after) & (whole["task"] <= last)
            beaten = whole["beaten_in"][chosen]
            expected = ((beaten < 0) | (beaten > last)).mean() if last <= after else np.nan
            np.testing.assert_equal(found[after, last], expected)
