"""Register the metrics of a run: pure functions of its results, each with formula, averaging and reference.

A family of metrics is one file in ``clbench.evaluate.metrics``, found because it is there. What is not known
is NaN, never 0. Nothing here imports torch.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from clbench.evaluate import metrics
from clbench.evaluate.results import Results

Function = Callable[[Results], float]


@dataclass(frozen=True)
class Metric:
    """A number that results have, and how it comes about."""

    name: str
    function: Function
    formula: str
    averaging: str  # over what, and with which weights
    reference: str
    higher_is_better: bool
    unit: str = ""  # of the value; empty: it is a share, shown in percent
    of_looks: bool = False  # whether it is known only where the learner was looked at while it learnt

    @property
    def summary(self) -> str:
        """The first line of the function's documentation."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0].rstrip(".")

    def __call__(self, results: Results) -> float:
        """Return the metric's value, NaN if it is not known."""
        return self.function(results)


METRICS: dict[str, Metric] = {}


def metric(
    name: str,
    *,
    formula: str,
    averaging: str,
    reference: str,
    higher_is_better: bool = True,
    unit: str = "",
    of_looks: bool = False,
) -> Callable[[Function], Function]:
    """Return a decorator that registers a function as the metric ``name`` and leaves it as it is."""

    def add(function: Function) -> Function:
        if name in METRICS:
            first, second = METRICS[name].function.__module__, function.__module__
            raise ValueError(f"metric {name!r} is registered twice: by {first} and by {second}")
        METRICS[name] = Metric(
            name, function, formula, averaging, reference, higher_is_better, unit, of_looks
        )
        return function

    return add


def compute(results: Results) -> dict[str, float]:
    """Return the value of every metric; NaN where the results do not tell it."""
    return {name: each(results) for name, each in METRICS.items()}


for _family in pkgutil.iter_modules(metrics.__path__, f"{metrics.__name__}."):
    importlib.import_module(_family.name)

__all__ = ["METRICS", "Metric", "Results", "compute", "metric"]
