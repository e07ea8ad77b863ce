"""Tell where the numbers of a run come from: command, folder, hashes, versions and machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clbench.outside.reading import RecordError
from clbench.outside.visible import shell_word
from clbench.records.record import Record

HASHES = {
    "stream": "data and class order",
    "weights": "backbone's weights",
    "strategy_source": "strategy's file",
}


@dataclass(frozen=True)
class Provenance:
    """What a reader needs to repeat a run, as text."""

    seed: int
    folder: str
    command: str
    hashes: dict[str, str]
    facts: dict[str, str]


def provenance(record: Record) -> Provenance:
    """Read it from a record; what a record does not hold is left out."""
    hashes, environment = _mapping(record, "hashes.json"), _mapping(record, "environment.json")
    return Provenance(
        seed=record.spec.run.seed,
        folder=record.path.name,
        command=_command(record),
        hashes={noun: str(hashes[name]) for name, noun in HASHES.items() if hashes.get(name)},
        facts={
            name: text
            for name, text in _facts(environment, is_low_bit=record.spec.is_low_bit).items()
            if text
        },
    )


def _command(record: Record) -> str:
    """Return what was typed, or for a run that Python code started, what would repeat it."""
    return record.command or f"clbench run --config {shell_word(str(record.path / 'spec.toml'))}"


def _facts(environment: dict[str, Any], *, is_low_bit: bool) -> dict[str, str]:
    packages, machine, commit = (
        _dictionary(environment.get(name)) for name in ("packages", "machine", "commit")
    )
    versions = {"Python": environment.get("python"), **packages}
    accelerators = machine.get("accelerators") or []
    parts = [machine.get("processor"), f"{machine.get('cores')} cores", *accelerators, machine.get("system")]
    if is_low_bit and machine.get("kernels"):
        parts.append(f"low-bit kernels: {machine['kernels']}")
    changed = " and uncommitted changes" if commit.get("is_changed") else ""
    return {
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "commit": f"{commit['id']}{changed}" if commit.get("id") else "",
        "machine": ", ".join(str(part) for part in parts if part) if machine else "",
    }


def _mapping(record: Record, name: str) -> dict[str, Any]:
    try:
        return _dictionary(record.read_json(name))
    except RecordError:
        return {}


def _dictionary(value: object) -> dict[str, Any]:
    """Return a value of a file if it is what a run writes there; another program may have written it."""
    return value if isinstance(value, dict) else {}
