"""Sum up the runs of one spec under several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from clbench.files import write_text
from clbench.records.json_text import to_json
from clbench.records.record import Record
from clbench.report.groups import Group, group_runs
from clbench.report.spreadsheet import summary_csv
from clbench.report.table import comparison_table


def seed_summary(records: Sequence[Record]) -> tuple[RenderableType, dict[str, Any]]:
    """Return a table for the terminal, and mean, std and n of every metric and cost by name."""
    groups = group_runs(records)
    return comparison_table(groups, []), {group.label: _statistics(group) for group in groups}


def write_seed_summary(records: Sequence[Record]) -> list[Path]:
    """Write ``summary-....csv`` and ``.json`` beside the runs; return their paths."""
    files = []
    for group in group_runs(records):
        folder, stem = group.records[0].path.parent, f"summary-{group.file_stem}"
        for suffix, text in ((".csv", summary_csv([group])), (".json", to_json(_statistics(group)) + "\n")):
            files.append(folder / (stem + suffix))
            write_text(files[-1], text)
    return files


def _statistics(group: Group) -> dict[str, Any]:
    numbers = {}
    for key in group.names:
        mean, std = group.statistic(key)
        numbers[key] = {"mean": mean, "std": std, "n": len(group.records)}
    runs = [record.path.name for record in group.records]
    return {"runs": runs, "seeds": group.seeds, "values": numbers}
