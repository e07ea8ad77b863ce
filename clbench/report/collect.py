"""Find the runs in the folders that a user names, and tell the finished from the others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clbench.records.record import Record, RecordError
from clbench.report.columns import values_of
from clbench.visible import shell_word

DEPTHS = ("*/spec.toml", "*/*/spec.toml")  # below a folder that is no run itself

NEEDED: dict[str, set[str]] = {
    "metrics.json": set(),
    "costs.json": set(),
    "matrix.json": {"accuracy", "classes_of_task"},
    "hashes.json": {"stream", "weights", "strategy_source"},
}


class NoRunError(RecordError):
    """Folders in which there is nothing to report."""


def collect(folders: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """Return the finished runs, and a line about each run that is not; NoRunError if none is finished."""
    finished, notes = [], []
    paths = {path.resolve(): path for folder in folders for path in _run_folders(folder)}
    for path in paths.values():
        try:
            record = Record.open(path).remembering()
            if record.is_finished:
                _check(record)
                finished.append(record)
            else:
                notes.append(f"Unfinished, go on with: clbench resume {shell_word(str(path))}")
        except RecordError as error:
            notes.append(f"Left out: {error}")
    if not finished:
        raise NoRunError(f"no finished run to report: {'; '.join(notes)}")
    return finished, notes


def _check(record: Record) -> None:
    """Read what a report reads; RecordError if something is missing, torn or not what a run writes."""
    for name, keys in NEEDED.items():
        value = record.read_json(name)
        missing = keys - value.keys() if isinstance(value, dict) else keys or {"anything by name"}
        if missing:
            raise RecordError(f"{record.path / name} does not hold {', '.join(sorted(missing))}")
        if name == "hashes.json" and not all(isinstance(each, str) for each in value.values()):
            raise RecordError(f"{record.path / name} holds something else than hashes")
    values_of(record)


def _run_folders(folder: Path) -> list[Path]:
    """Return the folder itself if it is a run, else the runs in it."""
    if (folder / "spec.toml").exists():
        return [folder]
    found = sorted(spec.parent for depth in DEPTHS for spec in folder.glob(depth))
    if not found:
        reason = (
            "no spec.toml in it or in the folders below" if folder.is_dir() else "there is no such folder"
        )
        raise NoRunError(f"no run in {folder}: {reason}")
    return found
