"""Say what a sweep searches: options of a run, each with its choices or its range."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clbench.options import SpecError, Value
from clbench.records.spec import SECTIONS, USED
from clbench.registry import did_you_mean

if TYPE_CHECKING:
    import numpy as np

KNOWN = (*SECTIONS, *USED)
FORMS = "{choices = [...]} or {low = ..., high = ..., log = true}"
OF_THE_SWEEP = {  # options that a sweep sets itself, and why they are no axis
    "run.seed": "set sweep.seeds, the number of seeds of each trial",
    "run.scored_on": "trials are scored on validation images, and only there",
    "stream.validation_rate": "trials are to be scored on the same images; set it in [stream]",
}
Options = Mapping[str, Value]  # by their dotted names


@dataclass(frozen=True)
class Axis(ABC):
    """One option that a sweep varies."""

    name: str  # dotted, as strategy.learning_rate

    @property
    @abstractmethod
    def ends(self) -> tuple[Value, ...]:
        """Values that are tried before anything runs, and stand for all."""

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> Value:
        """Return a value at random."""


@dataclass(frozen=True)
class Choices(Axis):
    """An option with a list of values."""

    values: tuple[Value, ...]

    @property
    def ends(self) -> tuple[Value, ...]:
        """All of them."""
        return self.values

    def draw(self, generator: np.random.Generator) -> Value:
        """Return one, each as likely as any other."""
        return self.values[int(generator.integers(len(self.values)))]


@dataclass(frozen=True)
class Range(Axis):
    """An option with numbers between two, whole ones where both are whole."""

    low: int | float
    high: int | float  # is in the range, too
    log: bool = False  # whether a number is as likely to lie between 1 and 10 as between 10 and 100

    @property
    def is_whole(self) -> bool:
        """Whether its numbers are whole."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Value, ...]:
        """The lowest and the highest."""
        return self.low, self.high

    def draw(self, generator: np.random.Generator) -> Value:
        """Return a number, each as likely as any other, or their logarithms."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.is_whole else (self.low, self.high)
        if self.log:
            drawn = math.exp(generator.uniform(math.log(low), math.log(high)))
        else:
            drawn = generator.uniform(low, high)
        drawn = min(max(drawn, self.low), self.high)
        return round(drawn) if self.is_whole else drawn


@dataclass(frozen=True)
class Space:
    """The options that a sweep varies, in the order of the file."""

    axes: tuple[Axis, ...]

    @property
    def num_points(self) -> int | None:
        """How many different trials there are; None: without end."""
        sizes = [_size(axis) for axis in self.axes]
        known = [size for size in sizes if size is not None]
        return math.prod(known) if len(known) == len(sizes) else None

    def points(self) -> Iterator[dict[str, Value]]:
        """Yield every trial of a space that is not endless; the last option changes first."""
        names = [axis.name for axis in self.axes]
        for values in itertools.product(*map(_values, self.axes)):
            yield dict(zip(names, values, strict=True))

    def draw(self, generator: np.random.Generator) -> dict[str, Value]:
        """Return the options of a trial at random."""
        return {axis.name: axis.draw(generator) for axis in self.axes}


def read_space(tables: Mapping[str, Any]) -> Space:
    """Read the table ``[space]``; SpecError in one line for what is no option, choice or range."""
    flat = dict(_flat(tables))
    if not flat:
        raise SpecError(f"[space] names no option; write strategy.learning_rate = {FORMS}")
    return Space(tuple(_axis(name, table) for name, table in flat.items()))


def with_options(sections: Mapping[str, Mapping[str, Any]], options: Options) -> dict[str, Any]:
    """Return the sections with the options of a trial put in."""
    merged: dict[str, Any] = {**sections}
    for name, value in options.items():
        section, _, option = name.partition(".")
        merged[section] = {**merged.get(section, {}), option: value}
    return merged


def _flat(tables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield dotted names: of strategy.epochs = ... TOML makes a table, "strategy.epochs" stays as it is."""
    for name, table in tables.items():
        section = name.partition(".")[0]
        if section not in KNOWN:
            near = did_you_mean(section, KNOWN)
            raise SpecError(
                f"[space] {name}: unknown section {section!r}{near} (allowed: {', '.join(KNOWN)})"
            )
        if "." in name:
            yield name, table
        elif isinstance(table, Mapping):
            yield from ((f"{name}.{option}", own) for option, own in table.items())
        else:
            raise SpecError(f"[space] {name}: write {name}.OPTION = {FORMS}")


def _axis(name: str, table: Any) -> Axis:
    if name in OF_THE_SWEEP:
        raise SpecError(f"[space] {name} is no option to search: {OF_THE_SWEEP[name]}")
    if not isinstance(table, Mapping):
        raise SpecError(f"[space] {name}: {table!r} is not allowed; write {name} = {FORMS}")
    allowed = ("choices",) if "choices" in table else ("low", "high", "log")
    for key in table:
        if key not in allowed:
            near = did_you_mean(key, ("choices", "low", "high", "log"))
            raise SpecError(f"[space] {name}: unknown key {key!r}{near} (allowed: {FORMS})")
    return _choices(name, table["choices"]) if "choices" in table else _range(name, table)


def _choices(name: str, values: Any) -> Choices:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise SpecError(f"[space] {name}: choices = {values!r} is not allowed; write a list, as in [1, 2, 4]")
    for value in values:
        if not isinstance(value, (bool, int, float, str)):
            raise SpecError(
                f"[space] {name}: {value!r} is no value of an option (number, text, true or false)"
            )
    if len({(type(value), value) for value in values}) < len(values):
        raise SpecError(f"[space] {name}: choices = {list(values)!r} names a value twice")
    return Choices(name, tuple(values))


def _range(name: str, table: Mapping[str, Any]) -> Range:
    missing = [key for key in ("low", "high") if key not in table]
    if missing:
        raise SpecError(f"[space] {name}: it says no {missing[0]}; write {name} = {FORMS}")
    low, high, log = table["low"], table["high"], table.get("log", False)
    for key, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise SpecError(f"[space] {name}: {key} = {value!r} is no number")
    if not isinstance(log, bool):
        raise SpecError(f"[space] {name}: log = {log!r} is not allowed (allowed: true, false)")
    if not low < high:
        raise SpecError(f"[space] {name}: low = {low} is not below high = {high}")
    if log and low <= 0:
        raise SpecError(
            f"[space] {name}: low = {low} has no logarithm; write a number above 0, or log = false"
        )
    return Range(name, low, high, log)


def _size(axis: Axis) -> int | None:
    if isinstance(axis, Range):
        return int(axis.high - axis.low) + 1 if axis.is_whole else None
    return len(axis.ends)


def _values(axis: Axis) -> Sequence[Value]:
    if isinstance(axis, Range):
        assert axis.is_whole, "a space without end has no list of points"
        return range(int(axis.low), int(axis.high) + 1)
    return axis.ends
