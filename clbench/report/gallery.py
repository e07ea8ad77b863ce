"""Choose the pictures of a stream for a page: what is drawn, of which groups, and how it is read."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from clbench.report import pictures
from clbench.report.groups import Group
from clbench.report.pictures import NoPictureError, Picture

NUM_BEST = 12  # groups whose lines or panels can still be told apart
DPI = 110
FIRST, BEST, ALL = 1, NUM_BEST, None  # how many groups a picture is drawn of, the most accurate first


class Plan(NamedTuple):
    """A picture that a page may show."""

    title: str
    num_groups: int | None
    draw: Callable[[Sequence[Group]], Picture]
    reading: str


PLANS = (
    Plan(
        "Accuracy",
        BEST,
        lambda groups: pictures.accuracy_curve(groups),
        "Mean accuracy on the tasks seen so far. Higher is better; a line that falls slowly forgets little. "
        "A dotted level is a learner that was tested only at the end.",
    ),
    Plan(
        "Forgetting",
        BEST,
        lambda groups: pictures.forgetting_curve(groups),
        "Mean drop of the earlier tasks from their best accuracy. Lower is better; 0 means nothing is lost.",
    ),
    Plan(
        "Accuracy after each task on each task",
        BEST,
        lambda groups: pictures.matrices(groups),
        "A row is a moment, a column a task. A column that darkens downwards is a task being forgotten; "
        "the diagonal is what was learnt.",
    ),
    Plan(
        "Accuracy and training operations",
        ALL,
        lambda groups: pictures.pareto(groups, cost="flops.training"),
        "Up and to the left is better. Nobody is both cheaper and more accurate than a group on the line.",
    ),
    Plan(
        "Accuracy and stored bytes",
        ALL,
        lambda groups: pictures.pareto(groups, cost="stored_bytes.total"),
        "What has to be kept between tasks, the backbone's own weights aside. Up and to the left is better.",
    ),
    Plan(
        "What is stored",
        BEST,
        lambda groups: pictures.stored_bytes(groups),
        "The bytes kept between tasks, by what they are kept for. Shorter is better.",
    ),
    Plan(
        "Stability gap",
        BEST,
        lambda groups: pictures.stability_gap(groups),
        "How the accuracy on a task changes once the next ones are learnt, in percentage points. A dip that "
        "is made up for later is one that tests after tasks would not see.",
    ),
    Plan(
        "While it learnt",
        FIRST,
        lambda groups: pictures.anytime(groups[0]),
        "Accuracy on each task seen, over training steps; dashed lines end tasks.",
    ),
    Plan(
        "Calibration",
        BEST,
        lambda groups: pictures.calibration(groups),
        "How often predictions of a confidence are right. On the diagonal confidence can be trusted; "
        "below it the learner is too sure.",
    ),
    Plan(
        "Confusion",
        FIRST,
        lambda groups: pictures.confusion(groups[0]),
        "A row is a true class, a column the class that was predicted, in the order they were learnt. "
        "Colour right of the diagonal blocks is a preference for new tasks.",
    ),
    Plan(
        "Drift",
        FIRST,
        lambda groups: pictures.drift(groups[0]),
        "How far the features of the same images moved with each task. Flat is stable.",
    ),
)


@dataclass(frozen=True)
class Shown:
    """A picture as a page holds it."""

    title: str
    alt: str
    reading: str
    data: str  # a PNG in base64
    width: int
    height: int


def gallery(groups: Sequence[Group]) -> tuple[list[Shown], list[str]]:
    """Draw what the records of the groups, best first, have data for; say in lines what is left out."""
    shown, left_out = [], []
    for plan in PLANS:
        try:
            shown.append(_shown(plan, groups))
        except NoPictureError as error:
            left_out.append(f"Not drawn: {plan.title.lower()}: {error}.")
    if len(groups) > NUM_BEST:
        left_out.append(
            f"Curves and panels show the {NUM_BEST} most accurate of {len(groups)} groups, "
            "scatter plots all; each run's folder holds its own figures."
        )
    return shown, left_out


def _shown(plan: Plan, groups: Sequence[Group]) -> Shown:
    chosen, picture = _drawn(plan, groups)
    png = picture.png(dpi=DPI)
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    title = f"{plan.title}: {chosen[0].label}" if plan.num_groups == FIRST else plan.title
    alt = f"{plan.title} of {', '.join(group.label for group in chosen[:NUM_BEST])}"
    return Shown(title, alt, plan.reading, base64.b64encode(png).decode(), width, height)


def _drawn(plan: Plan, groups: Sequence[Group]) -> tuple[Sequence[Group], Picture]:
    """Draw a plan's groups; of one group, the first that can be drawn and was tested after every task."""
    if plan.num_groups != FIRST:
        chosen = groups[: plan.num_groups]
        return chosen, plan.draw(chosen)
    followed = [group for group in groups if not math.isnan(group.statistic("average-accuracy")[0])]
    *candidates, last = (followed or groups)[:NUM_BEST]
    for group in candidates:
        with suppress(NoPictureError):
            return [group], plan.draw([group])
    return [last], plan.draw([last])
