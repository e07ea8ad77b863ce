"""Draw the accuracy of learners over the bytes that they may keep."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clbench.records.sizes import bytes_of
from clbench.report.budgets import ACCURACY, KEPT, budgets, learners
from clbench.report.groups import Group
from clbench.report.pictures.picture import NoPictureError, Picture
from clbench.report.pictures.style import (
    PALE,
    add_legend,
    line_style,
    name_axes,
    new_figure,
    rule,
    set_title,
    setting_name,
    shortened,
    spread_name,
)

SHAPE = (6.4, 4.2)  # inches, without a legend
SIDEWAYS = 0.008  # of the width, between learners under one budget, so that deviations can be told apart


def equal_bytes(groups: Sequence[Group]) -> Picture:
    """Draw each learner's last accuracy under each budget, mean and standard deviation over the seeds.

    A learner that keeps less than half of a budget has a hollow mark there; where it was refused it has none.
    """
    found = learners(groups)
    if not found:
        raise NoPictureError("no run has a budget (run.budget)")
    sizes = budgets(found)
    figure = new_figure(SHAPE[0], SHAPE[1] + 0.2 * len(found))
    axes = figure.add_subplot()
    axes.set_xscale("log")
    low, high = bytes_of(sizes[0]), bytes_of(sizes[-1])
    room = max((high / low) ** 0.06, 1.3)
    width = room**2 * high / low
    for place, learner in enumerate(found):
        style = line_style(place)
        shift = width ** (SIDEWAYS * (place - (len(found) - 1) / 2))
        points = [(group, bytes_of(group.spec.run.budget) * shift) for group in learner.groups]
        accuracies = [tuple(100 * value for value in group.statistic(ACCURACY)) for group, _ in points]
        across, means = [at for _, at in points], [mean for mean, _ in accuracies]
        axes.plot(
            across, means, color=style.colour, linestyle=style.dashes, linewidth=1.4, marker=style.marker,
            markersize=5, label=shortened(learner.label),
        )  # fmt: skip
        axes.errorbar(
            across,
            means,
            yerr=[0.0 if math.isnan(std) else std for _, std in accuracies],
            color=style.colour,
            linestyle="",
            linewidth=1.0,
        )
        for (group, at), mean in zip(points, means, strict=True):
            if group.statistic(KEPT)[0] < bytes_of(group.spec.run.budget) / 2:
                axes.plot(
                    at, mean, marker=style.marker, markersize=5, color=style.colour, markerfacecolor="white"
                )
    axes.set_xlim(low / room, high * room)
    axes.set_xticks([bytes_of(size) for size in sizes], sizes)
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color=PALE, linewidth=0.8)
    name_axes(axes, "budget of bytes kept between tasks (logarithmic)", f"{_scored(groups)} accuracy (%)")
    rule(axes)
    add_legend(figure, [learner.label for learner in found])
    below = f"{spread_name(groups)}; hollow: less than half is kept; no mark: refused, or not run"
    set_title(figure, setting_name(groups), below)
    return Picture(figure)


def _scored(groups: Sequence[Group]) -> str:
    kinds = {group.spec.run.scored_on for group in groups if group.spec.run.budget}
    return " and ".join(sorted(kinds))
