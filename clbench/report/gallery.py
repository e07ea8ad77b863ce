"""Draw the pictures of a stream for a page: of which groups each is, and what is left out."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

from clbench.report.groups import Group
from clbench.report.pictures import NoPictureError, Picture
from clbench.report.plans import NUM_BEST, PLANS, Plan

DPI = 110


MOST_OF_EACH = 48  # pictures of one kind that show a group each


@dataclass(frozen=True)
class Shown:
    """A picture as a page holds it."""

    title: str
    alt: str
    reading: str
    data: str  # a PNG in base64
    width: int
    height: int


@dataclass(frozen=True)
class Album:
    """Pictures of one kind that show a group each; all but the first are folded away."""

    title: str
    pictures: list[Shown]


def gallery(groups: Sequence[Group]) -> tuple[list[Shown], list[Album], list[str]]:
    """Draw what the records of the groups, best first, have data for; say in lines what is left out.

    Of pictures that show one group each the first stands among the others, and the rest make an album.
    """
    shown: list[Shown] = []
    albums: list[Album] = []
    left_out: list[str] = []
    for plan in PLANS:
        if not plan.title:
            continue
        try:
            first, *others = _of_each(plan, groups) if plan.is_of_one else [_of_all(plan, groups)]
        except NoPictureError as error:
            left_out.append(f"Not drawn: {plan.title.lower()}: {error}.")
            continue
        shown.append(first)
        if others:
            albums.append(Album(plan.title, others))
    if len(groups) > NUM_BEST:
        left_out.append(
            f"Curves and panels show the {NUM_BEST} most accurate of {len(groups)} groups, "
            "scatter plots all; each run's folder holds its own figures."
        )
    if len(groups) > MOST_OF_EACH:
        left_out.append(f"Pictures that show one group each are those of the first {MOST_OF_EACH}.")
    return shown, albums, left_out


def _of_all(plan: Plan, groups: Sequence[Group]) -> Shown:
    chosen = groups[: plan.num_groups]
    return _shown(plan, chosen, plan.draw(chosen))


def _of_each(plan: Plan, groups: Sequence[Group]) -> list[Shown]:
    """Draw each group that can be, first those tested after every task; NoPictureError if none can be."""
    followed = [each for each in groups if not math.isnan(each.statistic("average-incremental-accuracy")[0])]
    found: list[Shown] = []
    why: NoPictureError | None = None
    for group in [*followed, *(each for each in groups if each not in followed)][:MOST_OF_EACH]:
        try:
            found.append(_shown(plan, [group], plan.draw([group])))
        except NoPictureError as error:
            why = why or error
    if why and not found:
        raise why
    return found


def _shown(plan: Plan, chosen: Sequence[Group], picture: Picture) -> Shown:
    png = picture.png(dpi=DPI)
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    title = f"{plan.title}: {chosen[0].label}" if plan.is_of_one else plan.title
    alt = f"{plan.title} of {', '.join(group.label for group in chosen[:NUM_BEST])}"
    return Shown(title, alt, plan.reading, base64.b64encode(png).decode(), width, height)
