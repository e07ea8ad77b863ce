"""Say of each task how much of it was forgotten, and between which accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Group as Stacked
from rich.console import RenderableType
from rich.text import Text

from clbench.report.groups import Group
from clbench.report.units import percent
from clbench.report.wide_table import WideTable

MOST_SHOWN = 30  # tasks of a table that is read; of more, the first and the last
GAP = "…"  # the heading between them


@dataclass(frozen=True)
class TaskForgetting:
    """One task of a group: means over the seeds, in [0, 1]; NaN: not measured."""

    task: int  # 0-based
    learnt: float  # accuracy after its own task
    best: float  # highest accuracy before the last task
    last: float  # accuracy after the last task
    forgetting: float  # best - last, of each seed, then the mean
    std: float  # of that, over the seeds; NaN for one


def task_forgetting(group: Group) -> list[TaskForgetting]:
    """Return the tasks before the last; the mean of their forgetting is the metric ``forgetting``."""
    accuracy = group.accuracy  # (runs, T, T)
    num_runs, num_tasks, _ = accuracy.shape
    found = []
    for task in range(num_tasks - 1):
        seen = accuracy[:, task : num_tasks - 1, task]
        best = np.where(np.isnan(seen), -np.inf, seen).max(axis=1)
        best = np.where(np.isfinite(best), best, np.nan)
        last = accuracy[:, -1, task]
        lost = best - last
        learnt, deviation = accuracy[:, task, task], lost.std(ddof=1) if num_runs > 1 else np.nan
        means = [float(each.mean()) for each in (learnt, best, last, lost)]
        found.append(TaskForgetting(task, means[0], means[1], means[2], means[3], float(deviation)))
    return found


def forgetting_cells(group: Group) -> list[str]:
    """Return forgetting in percent for each task that is shown, ``4.0 ± 1.2``."""
    cells = [percent(each.forgetting, each.std) for each in task_forgetting(group)]
    return _shown(cells)


def forgetting_headings(groups: Sequence[Group]) -> list[str]:
    """Return the tasks that are shown, counted from 1."""
    longest = max((len(task_forgetting(group)) for group in groups), default=0)
    return _shown([str(task + 1) for task in range(longest)])


def forgetting_table(groups: Sequence[Group]) -> RenderableType:
    """Return a row a group and a column a task, for a terminal; nothing to say of streams of one task."""
    headings = forgetting_headings(groups)
    if not headings:
        return Text("Forgetting by task: there is one task, so nothing can be forgotten")
    rows = []
    for group in groups:
        cells = [Text(cell.replace(" ± ", "±")) for cell in forgetting_cells(group)]
        rows.append((group.label, [*cells, *[Text("")] * (len(headings) - len(cells))]))
    title = "Forgetting of each task in %: its best accuracy before the last task, minus its last"
    return Stacked(Text(title, style="bold"), WideTable("run", headings, rows))


def _shown(cells: list[str]) -> list[str]:
    half = MOST_SHOWN // 2
    return cells if len(cells) <= MOST_SHOWN else [*cells[:half], GAP, *cells[-half:]]
