"""Draw the pictures of a stream for a page: of which groups each is, and what is left out."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from clbench.report.groups import Group
from clbench.report.pictures import NoPictureError, Picture
from clbench.report.plans import NUM_BEST, PLANS, Plan

DPI = 110


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
        if not plan.title:
            continue
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
    title = f"{plan.title}: {chosen[0].label}" if plan.is_of_one else plan.title
    alt = f"{plan.title} of {', '.join(group.label for group in chosen[:NUM_BEST])}"
    return Shown(title, alt, plan.reading, base64.b64encode(png).decode(), width, height)


def _drawn(plan: Plan, groups: Sequence[Group]) -> tuple[Sequence[Group], Picture]:
    """Draw a plan's groups; of one group, the first that can be drawn and was tested after every task."""
    if not plan.is_of_one:
        chosen = groups[: plan.num_groups]
        return chosen, plan.draw(chosen)
    followed = [
        group for group in groups if not math.isnan(group.statistic("average-incremental-accuracy")[0])
    ]
    *candidates, last = (followed or groups)[:NUM_BEST]
    for group in candidates:
        with suppress(NoPictureError):
            return [group], plan.draw([group])
    return [last], plan.draw([last])
