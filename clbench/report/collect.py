"""Find the runs in the folders that a user names, and tell the finished from the others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clbench.files import is_temporary
from clbench.outside.reading import RecordError
from clbench.outside.visible import shell_word
from clbench.records import manifest
from clbench.records.forms import with_variants
from clbench.records.record import Record
from clbench.report.columns import values_of

DEPTHS = ("*", "*/*")  # below a folder that is no run itself
SIGNS = ("spec.toml", manifest.NAME)  # of a run, whole or not

NEEDED = ("metrics.json", "costs.json", "matrix.json", "hashes.json")


class NoRunError(RecordError):
    """Folders in which there is nothing to report."""


def collect(folders: Iterable[Path], *, with_results: bool = False) -> tuple[list[Record], list[str]]:
    """Return the finished runs, and a line about each run that is not; NoRunError if none is finished.

    Behind a run come its variants, each as a run of its own.

    A run that cannot be read is left out. ``with_results`` reads its predictions, too, for those who need
    them; without it only those that have changed since they were written, or never had a checksum.
    """
    finished, notes = [], []
    paths = {path.resolve(): path for folder in folders for path in _run_folders(folder)}
    for path in paths.values():
        try:
            record = Record.open(path).remembering()
            if not record.is_finished and not (path / "metrics.json").exists():
                notes.append(f"Unfinished, go on with: clbench resume {shell_word(str(path))}")
                continue
            _check(record, with_results=with_results)
            finished.append(record)
            for variant in with_variants(record)[1:]:
                _check(variant, with_results=with_results)
                finished.append(variant)
        except RecordError as error:
            notes.append(f"Left out: {error}")
    if not finished:
        raise NoRunError(f"no finished run to report: {'; '.join(notes)}")
    return finished, notes


def _check(record: Record, *, with_results: bool) -> None:
    """Read what a report reads; RecordError if something is missing, torn or not what a run writes."""
    for name in NEEDED:
        record.read_json(name)
    _ = record.version  # where it was run may be damaged, too
    values_of(record)
    changes = record.changes()
    if with_results or changes or not record.is_listed:
        record.results()


def _run_folders(folder: Path) -> list[Path]:
    """Return the folder itself if it is a run, else the runs in it."""
    if (folder / "spec.toml").exists():
        return [folder]
    patterns = [f"{depth}/{sign}" for depth in DEPTHS for sign in SIGNS]
    below = sorted({file.parent for pattern in patterns for file in folder.glob(pattern)})
    found = [path for path in below if not is_temporary(path)]  # not a run that is just being begun
    if not found:
        reason = (
            "no spec.toml in it or in the folders below" if folder.is_dir() else "there is no such folder"
        )
        raise NoRunError(f"no run in {folder}: {reason}")
    return found
