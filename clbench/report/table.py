"""Lay out the comparison of groups of runs for a terminal: what was learnt, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Group as Stacked
from rich.console import RenderableType
from rich.text import Text

from clbench.report.columns import QUALITY, Column, costs_shown
from clbench.report.groups import Group, partition, setting
from clbench.report.wide_table import WideTable


def comparison_table(
    groups: Sequence[Group], notes: Sequence[str], quality: Sequence[Column] = QUALITY
) -> RenderableType:
    """Return two tables, one above the other, with the notes below them."""
    heading = Text(
        f"{' · '.join(setting(groups)) or 'Comparison'}: mean ± std over n seeds, accuracies in %",
        style="bold",
    )
    lines = [Text(f"· {note}") for note in notes]
    shown = costs_shown(values for group in groups for values in group.values)
    costs = [replace(column, show=_without_spread(column)) for column in shown]  # to leave room for names
    return Stacked(heading, _table(groups, quality), _table(groups, costs), *lines)


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


def _table(groups: Sequence[Group], columns: Sequence[Column]) -> WideTable:
    best = {column.key: best_labels(groups, column) for column in columns}
    rows = [
        (
            group.label,
            [
                Text(str(len(group.records))),
                *(_cell(group, column, group.label in best[column.key]) for column in columns),
            ],
        )
        for group in groups
    ]
    return WideTable("run", ["n", *(column.title for column in columns)], rows, always=1)


def _cell(group: Group, column: Column, is_best: bool) -> Text:
    text = column.show(*group.statistic(column.key)).replace(" ± ", "±")
    return Text(text, style="bold" if is_best else "")


def _without_spread(column: Column) -> Callable[[float, float], str]:
    return lambda mean, _: column.show(mean, math.nan)
