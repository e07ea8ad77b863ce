"""Hold every metric by its name, with its formula and its rules; what is not known is NaN, never 0.

A metric comes through one of three doors: a file of ``clbench.evaluate.metrics``, an entry point in the group
``clbench.metrics``, or ``path/to/file.py:function`` / ``module:function``. Those behind the last two are
computed once they have been asked for by ``find``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

from clbench.cards import RegistryError
from clbench.evaluate.results import Results
from clbench.outside.mistakes import PluginError, explained
from clbench.registry import (
    NAME,
    UnknownNameError,
    did_you_mean,
    entry_points_of,
    imported,
    is_address,
    load,
    member,
)

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

    @property
    def is_of_others(self) -> bool:
        """Whether it came through a door for metrics of others."""
        return self.function.__module__.partition(".")[0] != "clbench"

    def __call__(self, results: Results, joint: Results | None = None) -> float:
        """Return the metric's value, NaN if it is not known; some compare with a run of joint training."""
        if self.against and joint is None:
            return float("nan")
        with explained(self.function):
            value: object = self.function(results, joint) if self.against else self.function(results)
        if not isinstance(value, Real):
            raise PluginError(
                f"metric {self.name} returned {value!r}, no number; return float('nan') for unknown"
            )
        return float(value)


KIND = "metrics"
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
    if not NAME.fullmatch(name):
        raise RegistryError(f"metric name {name!r}: use lower-case letters, digits, '-' and '.' (owner.name)")

    def add(function: Function) -> Function:
        known = METRICS.get(name)
        if known is not None and not _is_anew(known.function, function):
            first, second = known.function.__module__, function.__module__
            raise RegistryError(f"metric {name!r} is registered twice: by {first} and by {second}")
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


def names() -> list[str]:
    """Return the name of every metric: family by family, then those that installed packages offer."""
    return [*METRICS, *(name for name in sorted(entry_points_of(KIND)) if name not in METRICS)]


def find(name: str) -> Metric:
    """Return the metric of a name or at an address, to be computed from now on; UnknownNameError if none."""
    if is_address(name):
        return _at(name)
    point = entry_points_of(KIND).get(name)
    if name not in METRICS and point is not None:
        return _of_function(load(point), name)
    if name not in METRICS:
        near = did_you_mean(name, names())
        raise UnknownNameError(f"no {name!r} among the {KIND}{near} (see: clbench list {KIND})")
    return METRICS[name]


def find_all(listed: str) -> list[Metric]:
    """Return the metrics of names and addresses that commas separate."""
    return [find(each.strip()) for each in listed.split(",") if each.strip()]


def _at(address: str) -> Metric:
    """Import ``file.py:function`` or ``module:function``, or the one metric of ``file.py``."""
    module, attribute = imported(address, KIND)
    if attribute:
        return _of_function(member(module, attribute, address), address)
    own = [each for each in METRICS.values() if each.function.__module__ == module.__name__]
    if len(own) != 1:
        raise UnknownNameError(f"{address} registers {len(own)} {KIND}; say which: {address}:function")
    return own[0]


def _of_function(function: object, name: str) -> Metric:
    """Return what was registered with a function."""
    for each in METRICS.values():
        if each.function is function:
            return each
    raise RegistryError(f"{KIND}: {name!r} is no function with @metric(...) above it")


def _is_anew(known: Function, function: Function) -> bool:
    """Tell whether a function is of a file that was edited and imported again, and so replaces another."""
    same_file = known.__module__ == function.__module__
    return same_file and getattr(known, "__globals__", None) is not getattr(function, "__globals__", None)
