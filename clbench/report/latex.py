"""Write a comparison as LaTeX tables for the booktabs package."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clbench.outside.visible import visible
from clbench.report.columns import QUALITY, Column, costs_shown
from clbench.report.groups import Group, setting
from clbench.report.table import best_labels

NUMBER = re.compile(r"(?P<mean>-?[\d.]+)(?: ± (?P<std>[\d.]+))?(?: (?P<unit>\S+))?")
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
HEADINGS = {"accuracy A_T": "accuracy $A_T$"}  # the one title with mathematics in it


def latex_table(groups: Sequence[Group], notes: Sequence[str], quality: Sequence[Column] = QUALITY) -> str:
    """Return two ``table*``: what was learnt, and what it cost; a row a group, mean ± std over n seeds.

    The best of each ranked column is bold. The first caption ends in the notes.
    """
    spread = "Mean $\\pm$ standard deviation over $n$ seeds"
    where = escape(", ".join(setting(groups)))
    learnt, cost = (
        f"{what}{where and f' ({where})'}. {spread}." for what in ("What was learnt", "What it cost")
    )
    said = " ".join([learnt, *(f"{escape(note)}." for note in notes)])
    tables = [
        *_table(groups, quality, said),
        "",
        *_table(groups, costs_shown(values for group in groups for values in group.values), cost),
    ]
    return "\n".join(["% needs \\usepackage{booktabs}", *tables]) + "\n"


def _table(groups: Sequence[Group], columns: Sequence[Column], caption: str) -> list[str]:
    best = {column.key: best_labels(groups, column) for column in columns}
    rows = [
        [escape(group.label), str(len(group.records))]
        + [_cell(group, column, group.label in best[column.key]) for column in columns]
        for group in groups
    ]
    heading = ["run", "$n$", *(_heading(column) for column in columns)]
    return [
        "\\begin{table*}",
        "  \\centering",
        f"  \\caption{{{caption}}}",
        f"  \\begin{{tabular}}{{l{'r' * (len(heading) - 1)}}}",
        "    \\toprule",
        _row(heading),
        "    \\midrule",
        *map(_row, rows),
        "    \\bottomrule",
        "  \\end{tabular}",
        "\\end{table*}",
    ]


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return re.sub("[" + re.escape("".join(SPECIAL)) + "]", lambda found: SPECIAL[found[0]], visible(text))


def _heading(column: Column) -> str:
    unit = f" ({column.unit})" if column.unit else ""
    return HEADINGS.get(column.title, escape(column.title)) + escape(unit)


def _cell(group: Group, column: Column, is_best: bool) -> str:
    """Return mean and spread as mathematics, a thin space, and the unit; the mean bold if best."""
    found = NUMBER.fullmatch(column.show(*group.statistic(column.key)))
    if found is None:
        return "--"
    mean = f"\\mathbf{{{found['mean']}}}" if is_best else found["mean"]
    spread = f" \\pm {found['std']}" if found["std"] else ""
    return f"${mean}{spread}$" + (f"\\,{escape(found['unit'])}" if found["unit"] else "")


def _row(cells: Sequence[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"
