"""Tell whether a stopped run may go on: from what it wrote itself, on the machine that it was begun on."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from clbench.errors import UserError
from clbench.files import sweep
from clbench.quant.kernels import library
from clbench.records import manifest
from clbench.records.environment import environment
from clbench.records.record import Record
from clbench.records.spec import RunSpec
from clbench.runs.checkpoint import Position
from clbench.runs.compressing import FILE as PLUGIN
from clbench.runs.quantising import FILE

FROM_THE_START = (  # what they say decides every number
    *("spec.toml", "hashes.json", "history.json", FILE, PLUGIN),
)

log = logging.getLogger(__name__)


class ChangedError(UserError, ValueError):
    """What a run was begun with, or has written, is not what is found now."""


def edited_start(record: Record) -> list[str]:
    """Return which of the files that decide every number are not what was written when the run was begun."""
    hashes = manifest.known(record.path) or {}
    return manifest.changed(record.path, hashes, [name for name in FROM_THE_START if name in hashes])


def refuse_another_start(record: Record) -> None:
    """Refuse a record whose spec or hashes were edited: what follows would be another run under its name."""
    for name in edited_start(record):
        raise ChangedError(
            f"cannot resume {record.path}: its {name} has changed since it was written; put it back, "
            f"or begin a run of its own: clbench run --config {record.path / 'spec.toml'}"
        )


def refuse_missing(record: Record, position: Position) -> None:
    """Refuse a record in which what was noted of a task that is behind is missing or was changed."""
    hashes = manifest.known(record.path)
    needed = [name for name in {**(hashes or {}), **_noted(record)} if _is_behind(name, position)]
    for name in needed:
        if not (record.path / name).is_file():
            raise ChangedError(
                f"cannot resume {record.path}: its {name} is missing, which is not made again; put it back, "
                "or remove the folder checkpoint in it to go on from the beginning"
            )
    if (record.path / "matrix.json").exists():  # it would be made anew, but not from what is there
        needed.append("matrix.json")
    for name in manifest.changed(record.path, hashes, needed) if hashes else ():
        raise ChangedError(f"cannot resume {record.path}: its {name} has changed since it was written")


def clean(record: Record) -> None:
    """Remove what a killed process had begun to write into the record; nobody else is writing there now."""
    for folder in (record.path, *(path for path in record.path.rglob("*") if path.is_dir())):
        sweep(folder, is_ours=True)


def differences(record: Record) -> list[str]:
    """Return what, of all that may change a number's last digits, is not as where the run was begun."""
    if not (record.path / "environment.json").exists():
        return []
    before, now = (
        _facts(found, record.spec) for found in (record.read_json("environment.json"), environment())
    )
    return [
        f"{noun} {_text(now[noun])}, not {_text(before[noun])}"
        for noun in now
        if before[noun] is not None and before[noun] != now[noun]
    ]


def warn_of(record: Record, found: Iterable[str]) -> None:
    """Say that a run goes on elsewhere than it was begun."""
    told = "; ".join(found)
    if told:
        log.warning(
            "%s goes on with %s: its numbers may differ in their last digits from an undisturbed run's",
            record.path.name,
            told,
        )


def _noted(record: Record) -> dict[str, None]:
    """Return the names of the predictions that the matrix was counted from: what an older record tells."""
    if not (record.path / "matrix.json").exists():
        return {}
    rows = record.read_json("matrix.json")["accuracy"]
    known = [task for task, row in enumerate(rows) if any(value is not None for value in row)]
    return {f"predictions/after-task-{task:02d}.parquet": None for task in known}


def _is_behind(name: str, position: Position) -> bool:
    """Tell whether a file was written for good before a checkpoint."""
    folder, _, file = name.rpartition("/")
    if folder.rpartition("/")[2] not in ("predictions", "probe"):  # also those of a variant
        return False
    if file == "before.parquet":
        return position != Position()
    number = file.partition(".")[0].removeprefix("after-task-")
    return number.isdecimal() and int(number) < position.task


def _facts(found: dict[str, Any], spec: RunSpec) -> dict[str, Any]:
    machine, packages = found.get("machine") or {}, found.get("packages") or {}
    # before there were others, it was portable ones
    kernels = {"kernels:": machine.get("kernels", library.PORTABLE)} if spec.is_low_bit else {}
    return {
        "the processor": machine.get("processor"),
        "the accelerators": machine.get("accelerators"),
        "threads:": machine.get("torch_threads"),
        "torch": packages.get("torch"),
        "clbench": packages.get("clbench"),
        **kernels,
    }


def _text(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
