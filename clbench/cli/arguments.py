"""Merge what was typed into specs: defaults < recipe < ``--config`` < options < ``--set``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clbench import devices, strategies
from clbench.options import SpecError
from clbench.records.spec import SECTIONS, RunSpec, read_toml, resolve
from clbench.registry import did_you_mean

Sections = Mapping[str, Mapping[str, Any]]


def specs(
    *, config: Path | None, options: Mapping[str, str | None], settings: Sequence[str], device: str = "auto"
) -> list[RunSpec]:
    """Return one complete spec a seed; ``options`` are by name as on the command line, None where not given.

    ``device`` is the one to take where nothing names another.
    """
    layers = [_config(config), _sections(options), parse_settings(settings)]
    merged: dict[str, dict[str, Any]] = {"run": {"device": device, "seed": "0"}}
    for layer in map(_with_module, layers):
        for section, table in layer.items():
            merged.setdefault(section, {}).update(table)
    run = merged.pop("run")
    run["device"] = devices.choose(str(run["device"]))
    seeds = _seeds(str(run["seed"]))
    return [resolve({**merged, "run": {**run, "seed": seed}}) for seed in seeds]


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
    for name, table in sections.items():
        if name not in SECTIONS:
            raise SpecError(
                f"unknown section [{name}]{did_you_mean(name, SECTIONS)} (allowed: {', '.join(SECTIONS)})"
            )
        if not isinstance(table, dict):
            raise SpecError(f"[{name}] is to be a table such as [{name}] with name = ...")
    return sections


def parse_settings(settings: Sequence[str]) -> Sections:
    """Turn ``strategy.ema_decay=0.999`` items into sections; SpecError says what is wrong with an item."""
    sections: dict[str, dict[str, str]] = {}
    for item in settings:
        key, equals, value = item.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and name):
            raise SpecError(f"--set {item!r}: write section.name=value, as in --set strategy.epochs=3")
        if section not in SECTIONS:
            raise SpecError(
                f"--set {item!r}: unknown section {section!r}{did_you_mean(section, SECTIONS)}"
                f" (allowed: {', '.join(SECTIONS)})"
            )
        sections.setdefault(section, {})[name] = value.strip()
    return sections


def _sections(options: Mapping[str, str | None]) -> Sections:
    """Put each option where it stands in a config file."""
    sections: dict[str, dict[str, str]] = {}
    for option, value in options.items():
        if value is not None:
            section, name = (option, "name") if option in RunSpec.model_fields else ("run", option)
            sections.setdefault(section, {})[name] = value
    return sections


def _with_module(layer: Sections) -> Sections:
    """Split ``lae-lora`` into strategy and module, so that each can be replaced by a later layer."""
    typed = layer.get("strategy", {}).get("name")
    if typed is None:
        return layer
    strategy, module = strategies.split(str(typed))
    if module is None:
        return layer
    chosen = layer.get("petl", {})
    if chosen.get("name", module) != module:
        raise SpecError(f"--strategy {typed} and --petl {chosen['name']} contradict each other; drop one")
    return {
        **layer,
        "strategy": {**layer["strategy"], "name": strategy},
        "petl": {**chosen, "name": module},
    }


def _seeds(text: str) -> list[int]:
    """Read ``0`` or ``0,1,2``."""
    numbers = [number.strip() for number in text.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise SpecError(f"--seed {text!r}: write a number >= 0, or several: --seed 0,1,2")
    seeds = [int(number) for number in numbers]
    if len(set(seeds)) < len(seeds):
        raise SpecError(f"--seed {text!r}: a seed is named twice")
    return seeds
