"""Draw what was seen of a learner while it learnt: accuracy over training steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clbench.evaluate.looks import Anytime
from clbench.report.drawing import (
    COLOURS,
    FAINT,
    INK,
    as_png,
    clean,
    name_axes,
    new_figure,
    run_name,
    set_title,
)
from clbench.spec import RunSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMED = 20  # tasks; the names of more would overlap
PALEST = 0.88  # of the colour scale, which ends in a yellow too pale for a thin line


def anytime_png(spec: RunSpec, looks: Anytime) -> bytes:
    """Draw the accuracy on each task seen and their mean at each look, and on training images, as a PNG."""
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    _draw_boundaries(axes, looks)
    _draw_tasks(axes, looks)
    _draw_means(axes, looks)
    name_axes(axes, "training steps", "accuracy (%)")
    axes.set_ylim(-2, 102)  # a line at 0 or 100 is seen whole
    axes.set_xlim(0, max(int(looks.steps[-1]), 1))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    clean(axes, spines=("left", "bottom"))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    below = f"seed {spec.run.seed}, looked at every {spec.run.eval_every} steps"
    set_title(figure, run_name(spec), below)
    return as_png(figure)


def _draw_boundaries(axes: Axes, looks: Anytime) -> None:
    """Draw a line after each task, and the task's number above the steps that it took."""
    ends, tasks = looks.steps[looks.exact], looks.in_task[looks.exact]
    for start, end, task in zip([0, *ends[:-1]], ends, tasks, strict=True):
        axes.axvline(end, color=FAINT, linewidth=0.6, linestyle=(0, (4, 3)))
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


def _draw_tasks(axes: Axes, looks: Anytime) -> None:
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0, PALEST, len(looks.num_test)))
    for number, task in enumerate(looks.tested):
        known = ~np.isnan(looks.subset[:, task])
        name = "each task seen, the lighter the later" if number == 0 else None
        accuracy = 100 * looks.subset[known, task]
        axes.plot(looks.steps[known], accuracy, color=colours[task], linewidth=1, label=name)


def _draw_means(axes: Axes, looks: Anytime) -> None:
    steps, exact = looks.steps, looks.exact
    ink = COLOURS[-1]
    mean = 100 * np.nanmean(looks.subset, axis=1)
    axes.plot(steps, mean, color=ink, linewidth=1.8, label="their mean")
    mean = 100 * np.nanmean(looks.accuracy[exact], axis=1)
    name = "their mean on all test images"
    axes.plot(steps[exact], mean, "o", color=ink, markersize=4.5, clip_on=False, label=name)
    if looks.tried.any():
        share = 100 * looks.hits / np.where(looks.tried, looks.tried, np.nan)
        name = "training images before they are learnt"
        axes.stairs(share, [0, *steps], baseline=None, color=COLOURS[1], linewidth=1, label=name)
