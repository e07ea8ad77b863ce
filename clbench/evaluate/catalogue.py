"""Hold every metric by its name, with its formula and its rules; what is not known is NaN, never 0."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass

from clbench.evaluate.results import Results
from clbench.registry import UnknownNameError, did_you_mean

Function = Callable[..., float]  # of Results, and where a metric compares, of those of a second run


@dataclass(frozen=True)
class Metric:
    """A number that results have, and how it comes about."""

    name: str
    function: Function
    formula: str
    averaging: str  # over what, and with which weights
    reference: str
    unknown: str  # when it is NaN
    higher_is_better: bool
    unit: str = ""  # of the value; empty: it is a share, shown in percent
    against: str = ""  # what the second run is, where it compares two: "joint"

    @property
    def summary(self) -> str:
        """The first line of the function's documentation."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0].rstrip(".").replace("``", "")

    @property
    def family(self) -> str:
        """The file that it stands in: "matrix", "calibration"."""
        return self.function.__module__.rpartition(".")[2]

    @property
    def family_summary(self) -> str:
        """The first line of that file's documentation."""
        return (sys.modules[self.function.__module__].__doc__ or "").split("\n", 1)[0].rstrip(".")

    def __call__(self, results: Results, joint: Results | None = None) -> float:
        """Return the metric's value, NaN if it is not known; some compare with a run of joint training."""
        if not self.against:
            return self.function(results)
        return float("nan") if joint is None else self.function(results, joint)


METRICS: dict[str, Metric] = {}


def metric(
    name: str,
    *,
    formula: str,
    averaging: str,
    reference: str,
    unknown: str,
    higher_is_better: bool = True,
    unit: str = "",
    against: str = "",
) -> Callable[[Function], Function]:
    """Return a decorator that registers a function as the metric ``name`` and leaves it as it is."""

    def add(function: Function) -> Function:
        if name in METRICS:
            first, second = METRICS[name].function.__module__, function.__module__
            raise ValueError(f"metric {name!r} is registered twice: by {first} and by {second}")
        METRICS[name] = Metric(
            name, function, formula, averaging, reference, unknown, higher_is_better, unit, against
        )
        return function

    return add


def compute(results: Results, joint: Results | None = None) -> dict[str, float]:
    """Return the value of every metric; NaN where the results do not tell it.

    ``joint`` are those of joint training on the same stream, for the metrics that compare with it.
    """
    return {name: each(results, joint) for name, each in METRICS.items()}


def find(name: str) -> Metric:
    """Return the metric of a name; UnknownNameError if there is none."""
    if name not in METRICS:
        near = did_you_mean(name, METRICS)
        raise UnknownNameError(f"no {name!r} among the metrics{near} (see: clbench list metrics)")
    return METRICS[name]


def find_all(listed: str) -> list[Metric]:
    """Return the metrics of names that commas separate."""
    return [find(each.strip()) for each in listed.split(",") if each.strip()]
