"""Describe a sweep completely: what is searched, how, for how long, and what every trial has in common.

It is read from one TOML file: ``[sweep]``, ``[sweep.stopping]``, ``[space]``, and the sections of a run.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field

from clbench import devices, evaluate
from clbench.options import SpecError, option_types, validated
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec, read_toml
from clbench.registry import UnknownNameError, did_you_mean
from clbench.scale.halving import Stopping
from clbench.scale.searching import SEARCHES, Search, imported_optuna
from clbench.scale.space import KNOWN, Options, Range, Space, read_space, with_options

VALIDATION_RATE = 0.2  # of the training images, where the file says nothing
MOST_PLACES = 50  # at which an option is tried before anything runs
TABLES = ("sweep", "space")


@dataclass(frozen=True)
class Settings:
    """The table ``[sweep]``."""

    search: Literal["grid", "random", "optuna"] = "random"
    trials: Annotated[int, Field(ge=0)] = 0  # 0: of a grid all, else 20
    seeds: Annotated[int, Field(ge=1)] = 1  # runs of each trial, from run.seed on
    seed: Annotated[int, Field(ge=0)] = 0  # of the search
    processors: Annotated[int, Field(ge=1)] = 1  # of each run
    gpus: Annotated[float, Field(ge=0)] = 0.0  # of each run; 0.5: two runs share one
    metric: str = "accuracy"  # of a finished run, that trials are ranked by

    @property
    def num_trials(self) -> int | None:
        """How many trials there are at most; None: all of a grid."""
        return self.trials or (None if self.search == "grid" else 20)


@dataclass(frozen=True)
class Sweep:
    """A sweep: its settings, its space, and the sections that all trials share."""

    settings: Settings
    space: Space
    sections: Mapping[str, Any]
    stopping: Stopping | None = None
    tables: Mapping[str, Any] = field(default_factory=dict)  # as they stand in the file

    @property
    def seeds(self) -> list[int]:
        """The seeds of every trial."""
        first = int(self.sections.get("run", {}).get("seed", 0))
        return list(range(first, first + self.settings.seeds))

    @property
    def higher_is_better(self) -> bool:
        """Whether the best trial is the one with the highest score."""
        return evaluate.find(self.settings.metric).higher_is_better

    @property
    def num_trials(self) -> int:
        """How many trials there are, where none was made twice."""
        sizes = [self.settings.num_trials, self.space.num_points]
        return min(size for size in sizes if size is not None)

    @property
    def search(self) -> Search:
        """What chooses the options of trials."""
        kind = SEARCHES[self.settings.search]
        return kind(self.space, self.settings.seed, self.higher_is_better)

    @property
    def identity(self) -> str:
        """TOML of all that decides what a trial is, and what is known of it; not how many there are."""
        free = ("trials", "processors", "gpus")
        settings = {name: value for name, value in vars(self.settings).items() if name not in free}
        stopping = {"stopping": vars(self.stopping)} if self.stopping else {}
        return tomli_w.dumps({**self.tables, "sweep": {**settings, **stopping}})

    def spec(self, options: Options, seed: int) -> RunSpec:
        """Return a run of a trial, which never sees a test image; SpecError where options do not fit."""
        sections = with_options(self.sections, options)
        run = {**sections.get("run", {}), "seed": seed, "scored_on": "validation"}
        device = str(run.get("device", "cuda" if self.settings.gpus else "cpu"))
        run["device"] = devices.choose(device) if device == "auto" else device  # a cluster may have others
        stream = {"validation_rate": VALIDATION_RATE, **sections.get("stream", {})}
        return resolve({**sections, "run": run, "stream": stream})

    def best(self, options: Options) -> RunSpec:
        """Return the run that shows on test images what a trial is worth."""
        spec = self.spec(options, self.seeds[0])
        return spec.model_copy(update={"run": spec.run.model_copy(update={"scored_on": "test"})})


def read_sweep(text: str) -> Sweep:
    """Read a sweep and try everything in it that can be tried; SpecError in one line for what will not do."""
    tables = read_toml(text)
    allowed = (*TABLES, *KNOWN, "variant")
    for name, table in tables.items():
        if name not in allowed:
            near = did_you_mean(name, allowed)
            raise SpecError(f"unknown section [{name}]{near} (allowed: {', '.join(allowed)})")
        if not isinstance(table, list if name == "variant" else dict):
            raise SpecError(f"[{name}] is to be a table")
    settings, stopping = _settings(dict(tables.get("sweep", {})))
    space = read_space(tables.get("space", {}))
    sections = {name: table for name, table in tables.items() if name not in TABLES}
    _refuse_test_images(sections)
    sweep = Sweep(settings, space, sections, stopping, tables)
    _refuse_endless_grid(sweep)
    _try(sweep)
    return sweep


def _settings(table: dict[str, Any]) -> tuple[Settings, Stopping | None]:
    stopping = table.pop("stopping", None)
    settings = Settings(**validated(option_types(Settings), "sweep", table))
    if settings.search == "optuna":
        imported_optuna()
    try:
        evaluate.find(settings.metric)
    except UnknownNameError as error:
        raise SpecError(f"sweep.metric: {error}") from error
    if stopping is None:
        return settings, None
    if not isinstance(stopping, Mapping):
        raise SpecError("[sweep.stopping] is to be a table, with reduction = 3 and grace = 1, say")
    return settings, Stopping(**validated(option_types(Stopping), "sweep.stopping", stopping))


def _refuse_test_images(sections: Mapping[str, Any]) -> None:
    if "scored_on" in sections.get("run", {}):
        raise SpecError("run.scored_on is no option of a sweep: trials are scored on validation images, only")
    rate = sections.get("stream", {}).get("validation_rate", VALIDATION_RATE)
    if rate == 0:
        raise SpecError(
            "stream.validation_rate: 0 leaves no images to choose by; a sweep never looks at test images"
            f" (default: {VALIDATION_RATE})"
        )


def _refuse_endless_grid(sweep: Sweep) -> None:
    if sweep.settings.search != "grid":
        return
    for axis in sweep.space.axes:
        if isinstance(axis, Range) and not axis.is_whole:
            raise SpecError(
                f'[space] {axis.name}: search = "grid" goes through every value, and a range has no end of'
                ' them; write {choices = [...]}, or search = "random"'
            )


def _try(sweep: Sweep) -> None:
    """Make the spec of every end of every axis; what fits at none of the names of components is refused."""
    names = [axis for axis in sweep.space.axes if axis.name.endswith(".name")]
    first = {axis.name: axis.ends[0] for axis in sweep.space.axes}
    combinations = itertools.product(*(axis.ends for axis in names))
    places = [
        dict(zip([axis.name for axis in names], values, strict=True))
        for values in itertools.islice(combinations, MOST_PLACES)
    ]
    for axis in sweep.space.axes:
        others = {} if axis in names else first  # which may be options of another component of that name
        for value in axis.ends:
            fitting = [place for place in places if place.get(axis.name, value) == value]
            _try_any(sweep, [{**others, **place, axis.name: value} for place in fitting])


def _try_any(sweep: Sweep, tried: Sequence[Options]) -> None:
    """Refuse options if none of these can be made into a run."""
    reasons = []
    for options in tried:
        try:
            sweep.spec(options, sweep.seeds[0])
        except SpecError as error:
            reasons.append(error)
        else:
            return
    raise reasons[0]
