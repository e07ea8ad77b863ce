"""Report runs: tables for the terminal, and CSV, LaTeX and figures for everything else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType

from clbench.files import make_folder, write_bytes
from clbench.records.record import Record
from clbench.report.collect import collect
from clbench.report.groups import Group, common_stem, group_runs, single
from clbench.report.run_table import run_tables
from clbench.report.summary import seed_summary, write_seed_summary
from clbench.report.table import comparison_table
from clbench.report.warnings import warnings


@dataclass(frozen=True)
class Comparison:
    """Groups of runs side by side; rich prints it as a table."""

    groups: list[Group]
    notes: list[str]  # what a reader of the numbers has to know, a line each
    files: list[Path]  # what has been written

    def __rich__(self) -> RenderableType:
        """Return the table and the notes."""
        return comparison_table(self.groups, self.notes)


def report(
    folders: list[Path], out: Path | None, html: Path | None = None, *, recompute: bool = False
) -> Comparison:
    """Compare the finished runs in the folders; write the files into ``out``, or ``report`` beside them.

    ``html`` names a page to write instead, or besides if ``out`` is given. With ``recompute`` the metrics are
    computed anew from the predictions.
    """
    records, notes = collect(folders)
    groups = group_runs(records, recompute=recompute)
    repeated = len(records) - sum(len(group.records) for group in groups)
    if repeated:
        notes.append(f"Runs that repeat a spec and seed: {repeated}; the latest of each counts")
    told = warnings(groups)
    files = []
    if html:
        from clbench.report.page import page_html

        make_folder(html.parent)
        write_bytes(html, page_html(groups, notes, told).encode())
        files.append(html)
    if out or not html:
        from clbench.report.exports import write_comparison

        files += write_comparison(groups, told, out or records[0].path.parent / "report")
    return Comparison(groups, notes + told, files)


def write_figures(record: Record) -> None:
    """Draw whatever one run has data for into its ``figures`` folder."""
    from clbench.report import exports

    exports.write_figures(single(record), record.path / "figures")


__all__ = [
    "Comparison",
    "Group",
    "common_stem",
    "group_runs",
    "report",
    "run_tables",
    "seed_summary",
    "write_figures",
    "write_seed_summary",
]
