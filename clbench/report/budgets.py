"""Compare learners at equal bytes: those that were run under several budgets, one row a learner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group as Stacked
from rich.console import RenderableType
from rich.text import Text

from clbench.records.sizes import bytes_of
from clbench.records.spec import RunSpec
from clbench.report.columns import QUALITY
from clbench.report.groups import Group, distinct_labels, group_key
from clbench.report.spreadsheet import csv_text
from clbench.report.units import percent
from clbench.report.wide_table import WideTable

ACCURACY = QUALITY[0].key
KEPT = "stored_bytes.total"
ANY = "1B"  # in the place of every budget, where learners are told apart


@dataclass(frozen=True)
class Learner:
    """What differs in its budget alone."""

    label: str
    groups: list[Group]  # the smallest budget first

    def under(self, budget: str) -> Group | None:
        """Return what it is under a budget; None where it was not run, or refused."""
        return next((group for group in self.groups if group.spec.run.budget == budget), None)


def learners(groups: Sequence[Group]) -> list[Learner]:
    """Return the learners that were run under a budget, in the order in which they come."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        if group.spec.run.budget:
            found.setdefault(group_key(_under_any(group.spec)), []).append(group)
    labels = distinct_labels([_under_any(members[0].spec) for members in found.values()])
    return [
        Learner(label, sorted(members, key=_budget))
        for label, members in zip(labels, found.values(), strict=True)
    ]


def budgets(found: Sequence[Learner]) -> list[str]:
    """Return the budgets of some learners, the smallest first."""
    sizes = {group.spec.run.budget for learner in found for group in learner.groups}
    return sorted(sizes, key=bytes_of)


def budget_table(groups: Sequence[Group]) -> RenderableType | None:
    """Return a row a learner and a column a budget, with the last accuracy; None where there is no budget."""
    found = learners(groups)
    if not found:
        return None
    columns = budgets(found)
    rows = [
        (learner.label, [Text(_accuracy(learner.under(budget))) for budget in columns]) for learner in found
    ]
    heading = Text("At equal bytes: accuracy in % under each budget of what is kept", style="bold")
    return Stacked(heading, WideTable("learner", columns, rows))


def budgets_csv(groups: Sequence[Group]) -> str:
    """Return a row for each learner and budget: accuracy, and what was kept."""
    rows = [
        [
            learner.label,
            group.spec.run.budget,
            _budget(group),
            len(group.records),
            *map(_number, group.statistic(ACCURACY)),
            *map(_number, group.statistic(KEPT)),
        ]
        for learner in learners(groups)
        for group in learner.groups
    ]
    names = ["learner", "budget", "budget_bytes", "n", ACCURACY, f"{ACCURACY}_std", "kept_bytes"]
    return csv_text([*names, "kept_bytes_std"], rows)


def _under_any(spec: RunSpec) -> RunSpec:
    return spec.model_copy(update={"run": spec.run.model_copy(update={"budget": ANY})})


def _budget(group: Group) -> int:
    return bytes_of(group.spec.run.budget)


def _accuracy(group: Group | None) -> str:
    return "" if group is None else percent(*group.statistic(ACCURACY)).replace(" ± ", "±")


def _number(value: float) -> object:
    return "" if math.isnan(value) else value
