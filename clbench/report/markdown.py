"""Write a comparison as a Markdown table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clbench.outside.visible import visible
from clbench.report.columns import QUALITY, Column, costs_shown
from clbench.report.groups import Group
from clbench.report.table import best_labels

SPECIAL = re.compile(
    r"([\\`*\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))"
)  # an underscore inside a word is none


def markdown_table(groups: Sequence[Group], notes: Sequence[str], quality: Sequence[Column] = QUALITY) -> str:
    """Return a row a group, mean ± std over n seeds, the best of each ranked column bold; then the notes."""
    columns = (*quality, *costs_shown(values for group in groups for values in group.values))
    best = {column.key: best_labels(groups, column) for column in columns}
    heading = ["run", "n", *(column.heading for column in columns)]
    rows = [
        [
            group.label,
            str(len(group.records)),
            *(_cell(group, column, best[column.key]) for column in columns),
        ]
        for group in groups
    ]
    ruler = ["---", *("---:" for _ in heading[1:])]
    lines = [_row(heading), f"| {' | '.join(ruler)} |", *map(_row, rows)]
    return "\n".join([*lines, "", *(f"- {escape(note)}" for note in notes)]).rstrip() + "\n"


def escape(text: str) -> str:
    """Return text that does not end a cell, begin a tag, or look other than it is written."""
    return SPECIAL.sub(r"\\\1", visible(text)).replace("<", "&lt;")


def _cell(group: Group, column: Column, best: set[str]) -> str:
    text = column.show(*group.statistic(column.key))
    return f"**{text}**" if group.label in best else text


def _row(cells: Sequence[str]) -> str:
    bold = ["**" + escape(cell[2:-2]) + "**" if cell.startswith("**") else escape(cell) for cell in cells]
    return f"| {' | '.join(bold)} |"
