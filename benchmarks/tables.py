"""Keep a benchmark's table: its runs, each made once, and its rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from platformdirs import user_cache_path

from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.spec import RunSpec
from clbench.runs.line import execute, resume
from clbench.streams import Places

Row = Mapping[str, object]


def finished(spec: RunSpec, out: Path, data_dir: Path) -> Record:
    """Return the record of a run: one that is in ``out``, resumed if it was stopped, or a new one."""
    places = Places(data_dir, user_cache_path("clbench"))
    for folder in sorted(out.glob(f"*_{spec.id[:8]}")):
        return resume(folder, places=places, progress=Progress())
    return execute(spec, out=out, places=places, progress=Progress(), command="")


def known_rows(table: Path) -> list[dict[str, object]]:
    """Return the rows that a table has already."""
    return [dict(row) for row in csv.DictReader(table.open())] if table.exists() else []


def best_first(rows: Sequence[Row]) -> list[Row]:
    """Return the rows by falling accuracy."""
    return sorted(rows, key=lambda row: -float(str(row["accuracy"])))


def as_csv(rows: Sequence[Row]) -> str:
    """Return the rows, which have the same columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
