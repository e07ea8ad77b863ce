"""Check that a metric keeps the contract of every metric; ``clbench.testing.check_metric`` is this."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbench.evaluate import Metric, Results
from clbench.testing.promises import Told, nobody

CLOSE = 1e-9  # what two orders of the same sums in double precision may differ by
SAYS = ("summary", "formula", "averaging", "reference", "unknown")
Log = dict[str, NDArray[Any]]


def check_metric(metric: Metric, *, told: Told = nobody) -> None:
    """Compute a metric of generated predictions; AssertionError or PluginError says what was broken.

    ``clbench.evaluate.find("mine.py:spread")`` gives the metric. ``told`` hears of each promise that is kept:
    it says how it comes about; what is unknown is NaN; it is a number, known of a run that was evaluated
    whole, unless it says otherwise; the same of the same predictions in any order; it changes none of them.
    """
    for field in SAYS:
        text = getattr(metric, field)
        what = "its function has no docstring" if field == "summary" else f"{field} is empty"
        assert text, f"metric {metric.name}: {what}"
    told("it says how it comes about: what it tells, formula, averaging, source, and when it is unknown")
    for what, empty in (("never evaluated", _nothing(3)), ("of one task, never evaluated", _nothing(1))):
        value = metric(empty, empty)
        assert math.isnan(value), f"metric {metric.name} is {value:g} of a run {what}; unknown is NaN"
    told("what is unknown is NaN, never 0")
    log = _log(num_tasks=3)
    results, joint = Results.from_log(log, 3), Results.from_log(_log(num_tasks=3, seed=1), 3)
    before = copy.deepcopy(results)
    value = metric(results, joint)
    assert not math.isinf(value), f"metric {metric.name} is {value} of a run of three tasks"
    told("it is a number of a whole run" if not math.isnan(value) else "it is unknown of a run without looks")
    _expect_untouched(metric, results, before)
    told("what it is computed from stays as it was")
    again, turned = metric(results, joint), metric(Results.from_log(_turned(log), 3), joint)
    assert _is_equal(again, value), f"metric {metric.name} is {value:g}, and the second time {again:g}"
    told("the same predictions give the same value")
    assert _is_equal(turned, value), (
        f"metric {metric.name} is {value:g}, and {turned:g} of the same predictions in another order"
    )
    told("in any order")
    for num_tasks in (1, 2):
        metric(
            Results.from_log(_log(num_tasks), num_tasks), Results.from_log(_log(num_tasks, seed=1), num_tasks)
        )
    told("it can be asked of a run of one task or two")


def _nothing(num_tasks: int) -> Results:
    return Results.from_log({}, num_tasks)


def _log(num_tasks: int, seed: int = 0, num_images: int = 20) -> Log:
    """Return the log of a learner that is right more often than not; two classes a task."""
    random = np.random.default_rng(seed)
    logs = []
    for after in range(num_tasks):
        task, row = np.divmod(np.arange(num_images * (after + 1)), num_images)
        label = 2 * task + row % 2
        guess = random.integers(2 * (after + 1), size=len(row))
        prediction = np.where(random.random(len(row)) < 0.7, label, guess)
        masked = np.where(prediction // 2 == task, prediction, 2 * task)
        share = random.uniform(0.3, 0.9, len(row)).astype(np.float32)
        beaten = np.where(prediction == label, -1, prediction // 2)
        log = {"after_task": np.full(len(row), after), "task": task, "row": row, "label": label}
        log |= {"prediction": prediction, "masked_prediction": masked, "beaten_in": beaten}
        shares = {"confidence": share, "label_score": share, "sum_squares": share**2}
        logs.append({**log, **shares, "old_score": 1 - share, "new_score": share})
    return {name: np.concatenate([log[name] for log in logs]) for name in logs[0]}


def _turned(log: Log) -> Log:
    return {name: values[::-1].copy() for name, values in log.items()}


def _expect_untouched(metric: Metric, results: Results, before: Results) -> None:
    for field in dataclasses.fields(results):
        now, then = getattr(results, field.name), getattr(before, field.name)
        pairs = [(now[name], then[name]) for name in then] if isinstance(then, dict) else [(now, then)]
        for value, expected in pairs:
            is_array = isinstance(expected, np.ndarray)
            same = not is_array or np.array_equal(value, expected, equal_nan=expected.dtype.kind == "f")
            assert same, (
                f"metric {metric.name} changes {field.name} of what it is given, in place; change a copy"
            )


def _is_equal(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=CLOSE, abs_tol=CLOSE) or (
        math.isnan(first) and math.isnan(second)
    )
