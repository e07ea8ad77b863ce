"""Report runs: tables for the terminal, and CSV, LaTeX and figures for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType

from clbench.files import make_folder, write_bytes
from clbench.record import Record
from clbench.report.collect import collect
from clbench.report.groups import Group, differences, group_runs, partition, single
from clbench.report.run_table import run_tables
from clbench.report.summary import seed_summary, write_seed_summary
from clbench.report.table import comparison_table


@dataclass(frozen=True)
class Comparison:
    """Groups of runs side by side; rich prints it as a table."""

    groups: list[Group]
    notes: list[str]  # what a reader of the numbers has to know, a line each
    files: list[Path]  # what has been written

    def __rich__(self) -> RenderableType:
        """Return the table and the notes."""
        return comparison_table(self.groups, self.notes)


def report(folders: list[Path], out: Path | None, html: Path | None = None) -> Comparison:
    """Compare the finished runs in the folders; write the files into ``out``, or ``report`` beside them.

    ``html`` names one more file, a page that shows everything.
    """
    records, notes = collect(folders)
    groups = group_runs(records)
    repeated = len(records) - sum(len(group.records) for group in groups)
    if repeated:
        notes.append(f"Runs that repeat a spec and seed: {repeated}; the latest of each counts")
    warnings = differences(groups)
    out = out or records[0].path.parent / "report"
    files = _write(groups, warnings, out)
    if html:
        from clbench.report.page import page_html

        page = page_html(groups, notes, warnings)
        make_folder(html.parent)
        write_bytes(html, page.encode())
        files.append(html)
    return Comparison(groups, notes + warnings, files)


def write_figures(record: Record) -> None:
    """Draw the heatmap, the curve and, if there are any, the looks of one run into its ``figures`` folder."""
    from clbench.report.anytime_figure import anytime_png
    from clbench.report.figures import curve_png, heatmap_png

    group = single(record)
    make_folder(record.path / "figures")
    write_bytes(record.path / "figures" / "accuracy-matrix.png", heatmap_png(group))
    write_bytes(record.path / "figures" / "accuracy-curve.png", curve_png([group]))
    looks = record.results().anytime
    if looks and not looks.exact.all():
        write_bytes(record.path / "figures" / "anytime.png", anytime_png(record.spec, looks))


def _write(groups: Sequence[Group], warnings: Sequence[str], out: Path) -> list[Path]:
    """Write every file of a comparison and return their paths."""
    from clbench.report.figures import curve_png, heatmap_png
    from clbench.report.latex import latex_table
    from clbench.report.spreadsheet import runs_csv, summary_csv

    files = {
        "runs.csv": runs_csv(groups).encode(),
        "summary.csv": summary_csv(groups).encode(),
        "comparison.tex": latex_table(groups, warnings).encode(),
        **{f"accuracy-matrix_{group.file_stem}.png": heatmap_png(group) for group in groups},
    }
    streams = partition(groups, "stream")
    for number, members in enumerate(streams, start=1):
        files[f"accuracy-curve{f'-{number}' if len(streams) > 1 else ''}.png"] = curve_png(members)
    make_folder(out)
    for name, data in files.items():
        write_bytes(out / name, data)
    return [out / name for name in files]


__all__ = [
    "Comparison",
    "Group",
    "report",
    "run_tables",
    "seed_summary",
    "write_figures",
    "write_seed_summary",
]
