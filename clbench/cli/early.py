"""Check what was typed before anything heavy is imported: names, options, and whether they contradict.

What only the code of a component can tell is left to ``clbench.records.spec.resolve``, which checks again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clbench import backbones, petl, strategies, streams
from clbench.backbones.known import timm_names
from clbench.cards import read_cards
from clbench.cli.declared import declared_options
from clbench.errors import UserError
from clbench.options import SpecError, build, validated
from clbench.outside.visible import visible
from clbench.records.resolving import DEFAULTS, contradiction, run_options
from clbench.records.spec import USED, RunSpec, in_forms
from clbench.records.variants import NONE, form_registries
from clbench.registry import Registry, UnknownNameError, did_you_mean

MARKS = ("spec.toml", "learner.json")  # files that make a folder one of a run, or a bundle


class LearnerlessError(UserError, ValueError):
    """A folder that holds nothing that was learnt."""


@dataclass(frozen=True)
class Named:
    """What a run is made of, as far as names tell."""

    stream: str
    strategy: str
    backbone: str  # with what it is quantised and compressed by
    petl: str
    seed: int

    def __str__(self) -> str:
        """Write what stands above a run."""
        parts = (self.stream, self.strategy, self.backbone, self.petl, f"seed {self.seed}")
        return " · ".join(parts)


def header(spec: RunSpec, stream: str = "") -> str:
    """Write what stands above a run that was begun before, or above one that goes on with another stream."""
    names = (stream or spec.stream.name, spec.strategy.name, spec.encoder, spec.petl.name)
    return str(Named(names[0], names[1], names[2], names[3], spec.run.seed))


def in_words(runs: Sequence[Named]) -> str:
    """Write what stands above one run, or above several: each of their names once."""
    if len(runs) == 1:
        return str(runs[0])
    parts = [dict.fromkeys(names) for names in zip(*map(_columns, runs), strict=True)]
    *names, seeds = [", ".join(part) for part in parts]
    return " · ".join([f"{len(runs)} runs", *names, f"seed{'s' if len(parts[-1]) > 1 else ''} {seeds}"])


def _columns(run: Named) -> tuple[str, ...]:
    return run.stream, f"{run.strategy}-{run.petl}", run.backbone, str(run.seed)


def check(sections: Mapping[str, Mapping[str, Any]]) -> Named:
    """Return the names of a run; UserError in one line for what no run can be made of."""
    tables = {kind: dict(sections.get(kind, {})) for kind in (*DEFAULTS, "petl", "run", *USED)}
    for kind, table in tables.items():
        for name, value in table.items():
            _check_text(f"{kind}.{name}", value)
    names = {kind: str(tables[kind].pop("name", default)) for kind, default in DEFAULTS.items()}
    stream, argument = streams.split(names["stream"])
    streams.registry.check(stream)
    check_options(streams.registry, stream, "stream", {**argument, **tables["stream"]})
    strategies.check(names["strategy"])
    strategy, module = strategies.split(names["strategy"])
    check_options(strategies.registry, strategy, "strategy", tables["strategy"])
    check_backbone(names["backbone"], tables["backbone"])
    named = tables["petl"].pop("name", None)
    if module and named and module != named:
        raise contradiction(f"{strategy}-{module}", str(named))
    chosen = str(named or module or _module_of(strategy))
    petl.registry.check(chosen)
    check_options(petl.registry, chosen, "petl", tables["petl"])
    names["backbone"] += in_forms(_used(tables))
    return Named(stream, strategy, names["backbone"], chosen, run_options(tables["run"]).seed)


def _used(tables: Mapping[str, dict[str, Any]]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return what the backbone is quantised and compressed by, with the options that were given."""
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for kind, registry in form_registries().items():
        name = str(tables[kind].pop("name", NONE))
        if name != NONE:
            registry.check(name)
            check_options(registry, name, kind, tables[kind])
            found[kind] = (name, tables[kind])
    return found


def _check_text(option: str, value: object) -> None:
    """Refuse what no name, path or option holds: control characters, and bytes that were no text."""
    if isinstance(value, str) and not value.isprintable() and visible(value, keep="\xa0\u3000") != value:
        raise SpecError(f"{option}: '{visible(value)}' holds characters that are not printable")


def check_options(registry: Registry[Any], name: str, section: str, options: Mapping[str, Any]) -> None:
    """Raise UserError in one line for an option that a component has not, as far as its file tells."""
    types = declared_options(registry, name)
    if types is not None:
        validated(types, section, options)


def _refuse_no_learner(folder: Path) -> None:
    """Raise LearnerlessError in one line for a folder that is neither a run's nor a bundle."""
    if not folder.is_dir():
        raise LearnerlessError(f"no learner in {folder}: there is no such folder")
    if any((folder / name).is_file() for name in MARKS):
        return
    inside = sorted(file.parent for file in folder.glob(f"*/{MARKS[0]}"))
    near = f"; name a run in it, such as {inside[-1]}" if inside else ""
    raise LearnerlessError(
        f"no learner in {folder}: it holds no {MARKS[0]}, as a run does, and no {MARKS[1]}, as a bundle does"
        + near
    )


def learnt_spec(folder: Path) -> RunSpec:
    """Return the spec of the run that a learner comes from, of a folder that is a run's or a bundle."""
    from clbench.outside.reading import read_json, told_in_one_line
    from clbench.records.record import Record

    _refuse_no_learner(folder)
    file = folder / MARKS[1]
    if not file.is_file():
        return Record.open(folder).spec
    value = read_json(file)
    with told_in_one_line(file):
        return RunSpec.from_dict(value["spec"])


def check_backbone(name: str, options: Mapping[str, Any]) -> None:
    """Raise UserError in one line for a backbone that there is not, or an option that it has not."""
    if ":" in name or name.endswith(".py") or name in backbones.names():
        backbones.registry.check(name)
    elif timm_names() and name.partition(".")[0] not in timm_names():
        near = did_you_mean(name.partition(".")[0], [*backbones.names(), *sorted(timm_names())])
        raise UnknownNameError(f"no backbone named {name!r}{near} (see: clbench list backbones)")
    build(backbones.BackboneOptions, "backbone", options)


def _module_of(strategy: str) -> str:
    """Return the module that a strategy takes where none is named."""
    if strategy in strategies.registry.indexed():
        return str(strategies.registry.card(strategy).preset.get("petl", "linear"))
    place, _, title = strategy.rpartition(":")
    cards = read_cards(Path(place), "") if place.endswith(".py") else []
    presets = [card.preset for card in cards if card.title == title]
    return str(presets[0].get("petl", "linear")) if presets else "linear"
