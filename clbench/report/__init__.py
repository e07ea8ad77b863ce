"""Report runs: tables for the terminal, and CSV, LaTeX and figures for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Group as Stacked
from rich.console import RenderableType
from rich.text import Text

from clbench.evaluate import Metric
from clbench.files import make_folder, write_bytes
from clbench.records.record import Record
from clbench.report.budgets import budget_table
from clbench.report.collect import collect
from clbench.report.columns import QUALITY, Column, quality_columns
from clbench.report.forgetting import forgetting_table
from clbench.report.groups import Group, common_stem, group_runs, single
from clbench.report.labels import relabelled
from clbench.report.run_table import run_tables
from clbench.report.summary import seed_summary, write_seed_summary
from clbench.report.table import comparison_table
from clbench.report.variant_table import variant_table
from clbench.report.warnings import warnings


@dataclass(frozen=True)
class Wishes:
    """What a comparison shows, where it is not the usual."""

    labels: tuple[str, ...] = ()  # ID=NAME: other names of groups
    metrics: tuple[Metric, ...] = ()  # the columns of what was learnt; empty: the usual
    figures: str = "png"  # endings of the figures' files, with commas
    by_task: bool = False  # show forgetting of each task, too
    recompute: bool = False  # compute metrics anew from the predictions


@dataclass(frozen=True)
class Comparison:
    """Groups of runs side by side; rich prints it as a table."""

    groups: list[Group]
    notes: list[str]  # what a reader of the numbers has to know, a line each
    files: list[Path]  # what has been written
    wishes: Wishes = field(default_factory=Wishes)

    def __rich__(self) -> RenderableType:
        """Return the table and the notes."""
        tables = [
            comparison_table(self.groups, self.notes, _quality(self.wishes)),
            budget_table(self.groups),
            forgetting_table(self.groups) if self.wishes.by_task else None,
        ]
        shown = [part for table in tables if table is not None for part in (Text(), table)]
        return Stacked(*shown[1:])


def report(
    folders: list[Path],
    out: Path | None,
    html: Path | None = None,
    *,
    recompute: bool = False,
    wishes: Wishes | None = None,
) -> Comparison:
    """Compare the finished runs in the folders; write the files into ``out``, or ``report`` beside them.

    ``html`` names a page to write instead, or besides if ``out`` is given. With ``recompute`` the metrics are
    computed anew from the predictions.
    """
    wishes = replace(wishes or Wishes(), recompute=recompute or (wishes is not None and wishes.recompute))
    records, notes = collect(folders, with_results=True)
    groups = group_runs(records, recompute=wishes.recompute, asked=wishes.metrics)
    repeated = len(records) - sum(len(group.records) for group in groups)
    if repeated:
        notes.append(f"Runs that repeat a spec and seed: {repeated}; the latest of each counts")
    groups = relabelled(groups, wishes.labels)
    told, quality = warnings(groups), _quality(wishes)
    files = []
    if html:
        from clbench.report.page import page_html

        make_folder(html.parent)
        write_bytes(html, page_html(groups, notes, told, quality=quality).encode())
        files.append(html)
    if out or not html:
        from clbench.report.exports import write_comparison

        folder = out or records[0].path.parent / "report"
        files += write_comparison(groups, told, folder, quality, wishes.figures)
    return Comparison(groups, notes + told, files, wishes)


def _quality(wishes: Wishes) -> Sequence[Column]:
    return quality_columns(wishes.metrics) if wishes.metrics else QUALITY


def write_figures(record: Record) -> None:
    """Draw whatever one run has data for into its ``figures`` folder."""
    from clbench.report import exports

    exports.write_figures(single(record), record.path / "figures")


__all__ = [
    "Comparison",
    "Group",
    "Wishes",
    "common_stem",
    "group_runs",
    "report",
    "run_tables",
    "seed_summary",
    "variant_table",
    "write_figures",
    "write_seed_summary",
]
