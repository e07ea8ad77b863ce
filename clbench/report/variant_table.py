"""Lay out what the variants of one run predicted, below the learner itself."""

from __future__ import annotations

from rich.console import Group as Stacked
from rich.console import RenderableType
from rich.text import Text

from clbench.records.forms import with_variants
from clbench.records.record import Record
from clbench.report.columns import DEPLOYED, QUALITY
from clbench.report.groups import single
from clbench.report.wide_table import WideTable

ONE = "1.00"  # of what the others are compared with
LEARNT = QUALITY[:3]  # what is shown of what was learnt


def variant_table(record: Record) -> RenderableType | None:
    """Return a row for the learner and one for each of its variants; None where it has none."""
    records = with_variants(record.remembering())
    if len(records) == 1:
        return None
    columns = (*LEARNT, *DEPLOYED)
    rows = []
    for each in records:
        name = each.spec.deployed.name if each.spec.deployed else "the learner itself"
        group = single(each)
        shown = {column.key: column.show(*group.statistic(column.key)) for column in columns}
        if each is records[0]:
            shown |= {key: ONE for key in shown if key.startswith("speed.")}
        rows.append((name, list(map(Text, shown.values()))))
    heading = Text("As deployed: the same learner in other forms, accuracies in %", style="bold")
    return Stacked(heading, WideTable("variant", [column.title for column in columns], rows))
