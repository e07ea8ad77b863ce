"""Merge what was typed into specs: defaults < recipe < ``--config`` < options < ``--set``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from clbench import backbones, devices, petl, pretrain, strategies, streams
from clbench.cli.early import Named, check, check_backbone, check_options
from clbench.options import SpecError
from clbench.records.resolving import contradiction, resolve
from clbench.records.spec import SECTIONS, USED, RunSpec, read_toml
from clbench.records.variants import form_registries, split_text
from clbench.registry import did_you_mean

Sections = Mapping[str, Mapping[str, Any]]
NAMED = (*SECTIONS, *USED)  # the sections that options may be given for
PRETRAINING = ("pretrain", "backbone", "stream")  # those of clbench pretrain
LONGEST_SEED = 18  # digits: what TOML keeps whole
SEVERAL = {  # options that may name several components, and the names that begin a new one after a comma
    "stream": streams.names,
    "strategy": strategies.combinations,
    "backbone": backbones.names,
    "petl": petl.names,
}


@dataclass(frozen=True)
class Typed:
    """One run as it was typed: what differs from the defaults, and what it is called."""

    sections: Sections
    named: Named

    def spec(self) -> RunSpec:
        """Return the complete spec; this imports what the names stand for."""
        run = dict(self.sections["run"])
        run["device"] = devices.choose(str(run["device"]))
        return resolve({**self.sections, "run": run})


def typed(
    *,
    config: Path | None,
    options: Mapping[str, str | None],
    settings: Sequence[str],
    variants: Sequence[str] = (),
) -> list[Typed]:
    """Return what each run is to be: one for each stream, backbone, strategy, module and seed that is named.

    ``options`` are by name as on the command line, None where not given. Nothing heavy is imported; UserError
    for whatever can be told to be wrong without that.
    """
    lists = [_names(kind, options.get(kind)) for kind in SEVERAL]
    runs = []
    for chosen in product(*lists):
        try:
            sections = _merged(config, {**options, **dict(zip(SEVERAL, chosen, strict=True))}, settings)
            if variants:
                sections = {**sections, "variant": [*variants]}
            for seed in _seeds(str(sections["run"]["seed"])):
                of_seed = {**sections, "run": {**sections["run"], "seed": seed}}
                runs.append(Typed(of_seed, check(of_seed)))
        except SpecError as error:
            several = [name for name, names in zip(chosen, lists, strict=True) if len(names) > 1]
            raise SpecError(f"{' '.join(map(str, several))}: {error}" if several else str(error)) from error
    return runs


def learning_on(
    strategy: str, stream: str, device: str | None, settings: Sequence[str]
) -> tuple[Sections, str]:
    """Return by section what a learner of a strategy is to learn on with, and the name of the stream.

    Nothing heavy is imported; UserError for whatever can be told to be wrong without that.
    """
    sections: Sections = {"stream": {}, "strategy": {}, **parse_settings(settings)}
    kind, argument = streams.split(stream)
    streams.registry.check(kind)
    check_options(streams.registry, kind, "stream", {**argument, **sections["stream"]})
    check_options(strategies.registry, strategy, "strategy", sections["strategy"])
    run = {"device": device or "auto", **sections.get("run", {})}
    return {**sections, "run": run}, kind


def pretraining_on(method: str, backbone: str, stream: str, settings: Sequence[str]) -> Sections:
    """Return by section the options that are typed for a method of pre-training.

    Nothing heavy is imported; UserError for whatever can be told to be wrong without that.
    """
    sections = parse_settings(settings, PRETRAINING)
    pretrain.registry.check(method)
    check_options(pretrain.registry, method, "pretrain", sections.get("pretrain", {}))
    check_backbone(backbone, sections.get("backbone", {}))
    if teacher := sections.get("pretrain", {}).get("teacher"):
        check_backbone(str(teacher), {})
    kind, argument = streams.split(stream)
    streams.registry.check(kind)
    check_options(streams.registry, kind, "stream", {**argument, **sections.get("stream", {})})
    return sections


def specs(runs: Sequence[Typed]) -> list[RunSpec]:
    """Return the complete spec of each run; SpecError where two are the same run."""
    found: dict[str, Typed] = {}
    complete = []
    for run in runs:
        spec = run.spec()
        if spec.id in found:
            raise SpecError(f"{found[spec.id].named} and {run.named} are the same run; name it once")
        found[spec.id] = run
        complete.append(spec)
    return complete


def _merged(
    config: Path | None, options: Mapping[str, str | None], settings: Sequence[str]
) -> dict[str, Any]:
    merged: dict[str, Any] = {"run": {"device": "auto", "seed": "0"}}
    for layer in map(_with_module, [_config(config), _sections(options), parse_settings(settings)]):
        for section, table in layer.items():
            if section == "variant":  # a list of tables
                merged[section] = [*table]
            elif "name" in table and section in USED:  # another one has options of its own
                merged[section] = {**table}
            else:
                merged.setdefault(section, {}).update(table)
    return merged


def _names(kind: str, text: str | None) -> list[str | None]:
    """Split names at commas; one that follows a path and begins no name belongs to the path."""
    if text is None:
        return [None]
    known = set(SEVERAL[kind]())
    found: list[str | None] = []
    for piece in text.split(","):
        head = piece.strip().partition(":")[0]
        is_new = head in known or head.endswith(".py")
        if found and not is_new and (":" in str(found[-1]) or "/" in str(found[-1])):
            found[-1] = f"{found[-1]},{piece}"
        else:
            found.append(piece.strip())
    if len(set(found)) < len(found):
        raise SpecError(f"--{kind} {text!r}: a name stands there twice")
    if "" in found and len(found) > 1:
        raise SpecError(f"--{kind} {text!r}: there is no name between two commas")
    return found


def _config(file: Path | None) -> Sections:
    if file is None:
        return {}
    try:
        return read_config(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpecError(f"--config {file}: {reason}; --dry-run prints a file that can be given") from error
    except SpecError as error:
        raise SpecError(f"--config {file}: {error}") from error


def read_config(text: str) -> Sections:
    """Read a TOML file of (some of) the sections; SpecError names an unknown section."""
    sections = read_toml(text)
    if "parent" in sections:
        raise SpecError(
            "[parent] says that this run learnt on from another, which no spec holds;"
            " that is done by: clbench learn RUN|BUNDLE --stream NAME"
        )
    for name, table in sections.items():
        if name == "variant":
            if not isinstance(table, list) or not all(isinstance(each, dict) for each in table):
                raise SpecError("[variant] is to be a list of tables: [[variant]] with name = ...")
            continue
        if name not in NAMED:
            raise SpecError(
                f"unknown section [{name}]{did_you_mean(name, [*NAMED, 'variant'])}"
                f" (allowed: {', '.join(NAMED)}, variant)"
            )
        if not isinstance(table, dict):
            raise SpecError(f"[{name}] is to be a table such as [{name}] with name = ...")
    return sections


def parse_settings(settings: Sequence[str], known: Sequence[str] = NAMED) -> Sections:
    """Turn ``strategy.ema_decay=0.999`` items into sections; SpecError says what is wrong with an item."""
    sections: dict[str, dict[str, str]] = {}
    for item in settings:
        key, equals, value = item.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and name):
            raise SpecError(f"--set {item!r}: write section.name=value, as in --set strategy.epochs=3")
        if section not in known:
            raise SpecError(
                f"--set {item!r}: unknown section {section!r}{did_you_mean(section, known)}"
                f" (allowed: {', '.join(known)})"
            )
        sections.setdefault(section, {})[name] = value.strip()
    return sections


def _sections(options: Mapping[str, str | None]) -> Sections:
    """Put each option where it stands in a config file."""
    sections: dict[str, dict[str, str]] = {}
    for option, value in options.items():
        if value is not None and option in USED:
            sections[option] = split_text(value, form_registries()[option].names())
        elif value is not None:
            section, name = (option, "name") if option in RunSpec.model_fields else ("run", option)
            sections.setdefault(section, {})[name] = value
    return sections


def _with_module(layer: Sections) -> Sections:
    """Split ``lae-lora`` into strategy and module, so that each can be replaced by a later layer."""
    typed = str(layer.get("strategy", {}).get("name", ""))
    strategy, module = strategies.split(typed)
    if module is None:
        return layer
    chosen = layer.get("petl", {})
    if chosen.get("name", module) != module:
        raise contradiction(typed, str(chosen["name"]))
    return {
        **layer,
        "strategy": {**layer["strategy"], "name": strategy},
        "petl": {**chosen, "name": module},
    }


def _seeds(text: str) -> list[int]:
    """Read ``0`` or ``0,1,2``."""
    numbers = [number.strip() for number in text.split(",")]
    if not all(number.isascii() and number.isdecimal() and len(number) <= LONGEST_SEED for number in numbers):
        raise SpecError(
            f"--seed {text!r}: write a number >= 0 of at most {LONGEST_SEED} digits, or several: --seed 0,1,2"
        )
    seeds = [int(number) for number in numbers]
    if len(set(seeds)) < len(seeds):
        raise SpecError(f"--seed {text!r}: a seed is named twice")
    return seeds
