"""Draw what was seen of a learner while it learnt: accuracy over training steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clbench.evaluate.looks import Anytime
from clbench.report.groups import Group, Matrix
from clbench.report.pictures.binning import binned_columns, width_of_bins
from clbench.report.pictures.picture import NoPictureError, Picture
from clbench.report.pictures.style import (
    COLOURS,
    FAINT,
    INK,
    name_axes,
    new_figure,
    rule,
    run_name,
    seeds_name,
    set_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMED = 20  # tasks; the names of more would overlap
MOST_ENDED = 100  # tasks; the ends of more would fill the picture
MOST_LINES = 50  # of tasks; of more, neighbours share a line
PALEST = 0.88  # of the colour scale, which ends in a yellow too pale for a thin line


def anytime(group: Group) -> Picture:
    """Draw the accuracy on each task seen and their mean at each look, and on training images.

    The lines are means over the seeds, whose standard deviation is a band around the mean over the tasks.
    """
    runs = looks_of(group)
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    _draw_boundaries(axes, runs[0])
    _draw_tasks(axes, runs)
    _draw_means(axes, runs)
    name_axes(axes, "training steps", "accuracy (%)")
    axes.set_ylim(-2, 102)  # a line at 0 or 100 is seen whole
    axes.set_xlim(0, max(int(runs[0].steps[-1]), 1))
    rule(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    spread = "" if len(runs) == 1 else ", band: standard deviation"
    below = f"{seeds_name(group)}, looked at every {group.spec.run.eval_every} steps{spread}"
    set_title(figure, run_name(group.spec), below)
    return Picture(figure)


def looks_of(group: Group) -> list[Anytime]:
    """Return the looks of every run; NoPictureError if a run has none inside tasks, or at other steps."""
    found = [results.anytime for results in group.results]
    runs = [looks for looks in found if looks and not looks.exact.all()]
    if len(runs) < len(found):
        raise NoPictureError(
            f"{group.label} was not looked at while it learnt; run it with --set run.eval_every=10"
        )
    if any(not np.array_equal(looks.steps, runs[0].steps) for looks in runs):
        raise NoPictureError(f"the seeds of {group.label} were looked at after other numbers of steps")
    return runs


def _draw_boundaries(axes: Axes, looks: Anytime) -> None:
    """Draw a line after each task, and the task's number above the steps that it took."""
    ends, tasks = looks.steps[looks.exact], looks.in_task[looks.exact]
    if len(ends) > MOST_ENDED:
        return
    for start, end, task in zip([0, *ends[:-1]], ends, tasks, strict=True):
        axes.axvline(
            end, color=FAINT, linewidth=0.6 if len(ends) <= MOST_NAMED else 0.3, linestyle=(0, (4, 3))
        )
        if len(ends) <= MOST_NAMED:
            name = f"task {task + 1}" if task == 0 or len(ends) <= 8 else f"{task + 1}"
            axes.annotate(
                name,
                ((start + end) / 2, 1),
                xytext=(0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=INK,
            )


def _draw_tasks(axes: Axes, runs: Sequence[Anytime]) -> None:
    from matplotlib import colormaps

    tested = runs[0].tested
    accuracy = 100 * np.mean([looks.subset[:, tested] for looks in runs], axis=0)
    width = width_of_bins(len(tested), MOST_LINES)
    accuracy = binned_columns(accuracy, width)
    number = accuracy.shape[1]
    colours = colormaps["viridis"](np.linspace(0, PALEST, number))
    look = {"linewidth": 0.6, "alpha": 0.4} if number > MOST_NAMED else {"linewidth": 1.0}
    about = "each task seen" if width == 1 else f"each {width} tasks, those seen"
    for place in range(number):
        known = ~np.isnan(accuracy[:, place])
        name = f"{about}, the lighter the later" if place == 0 else None
        (line,) = axes.plot(runs[0].steps[known], accuracy[known, place], color=colours[place], label=name)
        line.set(**look)


def _draw_means(axes: Axes, runs: Sequence[Anytime]) -> None:
    steps, exact = runs[0].steps, runs[0].exact
    ink = COLOURS[-1]
    means = _over_tasks([looks.subset for looks in runs])
    axes.plot(steps, means.mean(axis=0), color=ink, linewidth=1.8, label="their mean")
    if len(runs) > 1:
        std = means.std(axis=0, ddof=1)
        edges = means.mean(axis=0) - std, means.mean(axis=0) + std
        axes.fill_between(steps, *edges, color=ink, alpha=0.15, linewidth=0)
    whole = _over_tasks([looks.accuracy[looks.exact] for looks in runs]).mean(axis=0)
    name = "their mean on all test images"
    size = 4.5 if len(whole) <= MOST_ENDED else 1.5
    axes.plot(steps[exact], whole, "o", color=ink, markersize=size, clip_on=False, label=name)
    hits, tried = np.sum([(looks.hits, looks.tried) for looks in runs], axis=0)
    if tried.any():
        share = 100 * hits / np.where(tried, tried, np.nan)
        name = "training images before they are learnt"
        axes.stairs(share, [0, *steps], baseline=None, color=COLOURS[1], linewidth=1, label=name)


def _over_tasks(runs: Sequence[Matrix]) -> Matrix:
    """Return in percent, of each run, the mean over the tasks that are known: (runs, looks)."""
    means: Matrix = 100 * np.nanmean(np.stack(runs), axis=2)
    return means
