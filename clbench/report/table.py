"""Lay out the comparison of groups of runs for a terminal: what was learnt, and what it cost."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Stacked
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from clbench.report.columns import QUALITY, Column, costs_shown
from clbench.report.groups import Group, partition

SHORTEST_LINE = 11  # letters of a name


def comparison_table(groups: Sequence[Group], notes: Sequence[str]) -> RenderableType:
    """Return two tables, one above the other, with the notes below them."""
    heading = Text(f"{_setting(groups)}: mean ± std over n seeds, accuracies in %", style="bold")
    lines = [Text(f"· {note}") for note in notes]
    shown = costs_shown(values for group in groups for values in group.values)
    costs = [replace(column, show=_without_spread(column)) for column in shown]  # to leave room for names
    return Stacked(heading, _table(groups, QUALITY), _table(groups, costs), *lines)


def best_labels(groups: Sequence[Group], column: Column) -> set[str]:
    """Return who is best, as far as the written digits tell, among the groups that met the same stream."""
    if column.higher_is_better is None:
        return set()
    choose = max if column.higher_is_better else min
    best: set[str] = set()
    for rivals in partition(groups, "stream"):
        means = {group.label: group.statistic(column.key)[0] for group in rivals}
        known = {label: mean for label, mean in means.items() if not math.isnan(mean)}
        if len(known) > 1:
            first = column.show(choose(known.values()), math.nan)
            winners = {label for label, mean in known.items() if column.show(mean, math.nan) == first}
            best |= winners if len(winners) < len(known) else set()
    return best


@dataclass(frozen=True)
class _Label:
    """A name that is broken at its hyphens where the column is narrow."""

    text: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the lines that fit."""
        yield Text("\n".join(textwrap.wrap(self.text, options.max_width)))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Ask for the whole name, make do with a short line."""
        return Measurement(min(len(self.text), SHORTEST_LINE), len(self.text))


def _table(groups: Sequence[Group], columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("\nrun")
    table.add_column("\nn", justify="right", no_wrap=True)
    for column in columns:
        words = column.title.split(" ", 1)
        table.add_column("\n".join(["", *words][-2:]), justify="right", no_wrap=True)
    best = {column.key: best_labels(groups, column) for column in columns}
    for group in groups:
        cells = [_cell(group, column, group.label in best[column.key]) for column in columns]
        table.add_row(_Label(group.label), str(len(group.records)), *cells)
    return table


def _cell(group: Group, column: Column, is_best: bool) -> Text:
    text = column.show(*group.statistic(column.key)).replace(" ± ", "±")
    return Text(text, style="bold" if is_best else "")


def _without_spread(column: Column) -> Callable[[float, float], str]:
    return lambda mean, _: column.show(mean, math.nan)


def _setting(groups: Sequence[Group]) -> str:
    """Return what all groups share of stream and backbone."""
    streams = {group.spec.stream.name for group in groups}
    backbones = {group.spec.backbone.name for group in groups}
    shared = [names.pop() for names in (streams, backbones) if len(names) == 1]
    return " · ".join(shared) or "Comparison"
