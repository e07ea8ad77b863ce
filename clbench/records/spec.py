"""Describe one run completely: which components, and the value of every one of their options.

A ``RunSpec`` is data: it round-trips through TOML, is printed by ``--dry-run``, is stored in the record, and
its hash is the run's id. ``resolve`` turns what a user typed into a spec in which nothing is left to a
default.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clbench.options import SpecError, Value, complete, is_whole
from clbench.outside.reading import parse_toml
from clbench.records.recipes import AUTHORS, Setting, with_recipes, without_module
from clbench.registry import did_you_mean

if TYPE_CHECKING:
    from clbench.petl import Petl
    from clbench.strategies import Strategy

SECTIONS = ("stream", "strategy", "backbone", "petl", "run")
DEFAULTS = {"stream": "split-digits", "strategy": "lae", "backbone": "vit-micro"}  # the embedded default run


class Part(BaseModel):
    """One component: its registered name and its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    options: dict[str, Value] = {}


class RunOptions(BaseModel):
    """What belongs to the run and to no component."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0)] = 0
    device: str = "cpu"  # cpu, cuda, cuda:1, mps
    precision: Literal["fp32", "bf16"] = "fp32"
    eval_batch_size: Annotated[int, Field(ge=1)] = 256  # images a forward pass when evaluating
    checkpoint_every: Annotated[int, Field(ge=0)] = (
        0  # steps between checkpoints inside an epoch; 0: none inside
    )
    eval_every: Annotated[int, Field(ge=0)] = 0  # steps between looks at the learner; 0: after tasks only
    eval_images: Annotated[int, Field(ge=1)] = 100  # test images of each task in such a look
    eval_ahead: bool = False  # evaluate every task also before it is learnt, for forward transfer
    probe_images: Annotated[int, Field(ge=0)] = 0  # of each task, whose representations are kept; 0: none
    prequential: bool = True  # eval_every > 0: predict each training batch before it is learnt, too
    step_cost: Annotated[int, Field(ge=1)] = (
        1  # micro-batches that arrive while one is learnt; all are predicted, only every so many is learnt
    )
    exact: bool = False  # compute everything each time: keep no features
    metrics: str = ""  # others than clbench's own, to be computed too: names or file.py:function, by commas


class Parent(BaseModel):
    """The learner that a run learns on from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str  # of the run that it comes from
    group: str  # what that run shares with those that differ in the seed alone
    learner: str  # SHA-256 of its state
    tasks: Annotated[int, Field(ge=1)]  # that it had learnt


class RunSpec(BaseModel):
    """A run: four components and the run's own options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stream: Part
    strategy: Part
    backbone: Part
    petl: Part
    run: RunOptions = RunOptions()
    parent: Parent | None = None  # whose tasks come before those of the stream

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits that only an equal spec shares."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def group(self) -> str:
        """Sixteen hexadecimal digits that specs share if they differ in the seed alone."""
        sections = self.without_seed()
        return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()[:16]

    def without_seed(self) -> dict[str, dict[str, Value]]:
        """Return the sections without the seed, and without what does not change the run: further metrics.

        Of a parent it is not said which it was, but which group it is of.
        """
        sections = {kind: dict(table) for kind, table in self.to_dict().items()}
        del sections["run"]["seed"]
        sections["run"].pop("metrics", None)
        if self.parent:  # first: it tells most where runs are told apart
            after = f"{self.parent.tasks}-tasks-of-{self.parent.group[:8]}"
            return {"parent": {"after": after}, **{name: sections[name] for name in SECTIONS}}
        return sections

    def to_dict(self) -> dict[str, dict[str, Value]]:
        """Return a table a section, as they stand in the TOML file."""
        parts = {kind: getattr(self, kind) for kind in SECTIONS[:-1]}
        sections = {kind: {"name": part.name, **part.options} for kind, part in parts.items()}
        run = self.run.model_dump()
        unused = [] if run["metrics"] else ["metrics"]  # so that ids from before there was such a thing stay
        sections["run"] = {name: value for name, value in run.items() if name not in unused}
        return sections if self.parent is None else {**sections, "parent": self.parent.model_dump()}

    def to_toml(self) -> str:
        """Return the spec as TOML that ``--config`` accepts."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> RunSpec:
        """Read what ``to_toml`` wrote."""
        return cls.from_dict(read_toml(text))

    @classmethod
    def from_dict(cls, tables: Mapping[str, Mapping[str, Any]]) -> RunSpec:
        """Read what ``to_dict`` returned."""
        sections = {name: dict(table) for name, table in tables.items()}
        missing = [name for name in SECTIONS if "name" not in sections.get(name, {}) and name != "run"]
        if missing:
            raise SpecError(f"it names no {', '.join(missing)}")
        run, parent = sections.pop("run", {}), sections.pop("parent", None)
        parts = {kind: Part(name=table.pop("name"), options=table) for kind, table in sections.items()}
        return cls(**parts, run=RunOptions(**run), parent=Parent(**parent) if parent else None)


def read_toml(text: str) -> dict[str, Any]:
    """Return what a TOML text holds; SpecError says where it is none."""
    try:
        return parse_toml(text)
    except ValueError as error:  # also numbers of too many digits
        raise SpecError(f"not valid TOML: {error}") from error


def resolve(sections: Mapping[str, Mapping[str, Any]]) -> RunSpec:
    """Fill every default in; ``sections`` may name only what differs from the embedded default run."""
    from clbench import strategies, streams

    tables = {kind: dict(sections.get(kind, {})) for kind in SECTIONS}
    stream_name = str(tables["stream"].pop("name", DEFAULTS["stream"]))
    strategy_name, module = strategies.split(str(tables["strategy"].pop("name", DEFAULTS["strategy"])))
    strategy = strategies.get(strategy_name)
    named = tables["petl"].pop("name", None)
    if module and named and module != named:
        raise contradiction(f"{strategy_name}-{module}", str(named))
    stream_name, stream_options = streams.split(stream_name)
    stream = complete(streams.get(stream_name), "stream", {**stream_options, **tables["stream"]})
    backbone_name, backbone = _backbone(tables["backbone"])
    setting = Setting(stream_name, backbone_name, is_online=bool(stream.get("online")))
    own_module = with_recipes(strategy, _recipe(tables["strategy"]), setting).get("petl")
    preset = strategies.registry.card(strategy_name).preset
    petl_name = str(named or module or own_module or preset.get("petl", "linear"))
    setting = replace(setting, module=petl_name)
    defaults = _defaults(strategy, setting, tables["strategy"], backbone["weights"])
    if stream.get("online"):
        defaults |= _single_pass(stream["online"], tables["strategy"])
    return RunSpec(
        stream=Part(name=stream_name, options=stream),
        strategy=Part(
            name=strategy_name, options=complete(strategy, "strategy", {**defaults, **tables["strategy"]})
        ),
        backbone=Part(name=backbone_name, options=backbone),
        petl=Part(name=petl_name, options=_module(strategy, petl_name, tables)),
        run=run_options(tables["run"]),
    )


def _recipe(chosen: Mapping[str, Any]) -> str:
    return str(chosen.get("recipe", AUTHORS))


def _defaults(
    strategy: type[Strategy], setting: Setting, chosen: Mapping[str, Any], weights: Value
) -> dict[str, Any]:
    """Return what a strategy's options are where a user chose none; nothing where all were chosen."""
    from clbench import petl, streams

    if is_whole(strategy, chosen):  # written down by an older version, perhaps, without what came later
        return {}
    return {
        **_fine_tuning(strategy, petl.get(setting.module), weights),
        **streams.get(setting.stream).recipe,
        **without_module(with_recipes(strategy, _recipe(chosen), setting)),
    }


def _module(strategy: type[Strategy], name: str, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Value]:
    """Return all options of a module, its defaults being those that a strategy has for it."""
    from clbench import petl

    module = petl.get(name)
    is_written = is_whole(strategy, tables["strategy"]) and is_whole(module, tables["petl"])
    defaults = {} if is_written else strategy.module_options.get(name, {})
    return complete(module, "petl", {**defaults, **tables["petl"]})


def _backbone(table: dict[str, Any]) -> tuple[str, dict[str, Value]]:
    """Return the name and all options of a backbone that there is."""
    from clbench import backbones

    name = str(table.pop("name", DEFAULTS["backbone"]))
    preset: Mapping[str, Any] = {}
    if name in backbones.names():
        preset = backbones.registry.card(name).preset
    else:
        from clbench.backbones.creation import architecture  # takes seconds: it imports timm

        architecture(name)
    return name, complete(backbones.BackboneOptions, "backbone", {**preset, **table})


def _fine_tuning(strategy: type[Strategy], module: type[Petl], weights: Value) -> Mapping[str, Any]:
    """Return the options with which a strategy that sets no learning rate of its own tunes a backbone itself.

    The rate that suits a small module would destroy what pre-trained weights know.
    """
    from clbench import strategies

    has_own_rate = strategy.learning_rate != strategies.Strategy.learning_rate
    return {} if has_own_rate or weights == "none" or not module.trains_backbone else module.recipe


def _single_pass(micro_batch: Value, chosen: Mapping[str, Any]) -> dict[str, Value]:
    """Return the strategy options that a stream of micro-batches leaves no choice of."""
    forced = {"epochs": 1, "batch_size": micro_batch, "drop_last": False}
    for name, value in forced.items():
        if name in chosen and str(chosen[name]).lower() != str(value).lower():
            raise SpecError(
                f"strategy.{name}: {chosen[name]!r} contradicts stream.online={micro_batch},"
                f" which makes it {value}"
            )
    return forced


def contradiction(strategy: str, module: str) -> SpecError:
    """Return what is wrong where a strategy's name holds another module than the one that is named."""
    return SpecError(f"--strategy {strategy} and --petl {module} contradict each other; drop one")


def run_options(options: Mapping[str, Any]) -> RunOptions:
    """Return the run's own options, validated; SpecError in one line if they do not fit."""
    allowed = RunOptions.model_fields
    for name in options:
        if name not in allowed:
            raise SpecError(
                f"run has no option {name!r}{did_you_mean(name, allowed)} (allowed: {', '.join(allowed)})"
            )
    try:
        return RunOptions(**options)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"]
        raise SpecError(
            f"run.{first['loc'][0]}: {first['input']!r} is not allowed: {reason[0].lower()}{reason[1:]}"
        ) from error
