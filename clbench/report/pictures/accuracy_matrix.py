"""Draw the accuracy matrix as a heatmap with numbers, and those of many groups side by side without."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np

from clbench.report.groups import Group, Matrix
from clbench.report.pictures.binning import bin_ticks, binned, bins_note, width_of_bins
from clbench.report.pictures.cells import add_scale, write_numbers
from clbench.report.pictures.picture import NoPictureError, Picture
from clbench.report.pictures.style import (
    INK,
    clean,
    left_out,
    name_axes,
    new_figure,
    run_name,
    seeds_name,
    set_title,
    setting_name,
    shortened,
)
from clbench.report.units import matrix_cell

DARK = 0.6  # share of the colour scale below which a cell's text is white
MOST_NUMBERED = 20  # tasks; the numbers of more would be too small to read
MOST_SIDE_BY_SIDE = 24  # groups in one figure
NAME_WIDTH = 24  # letters of a group's name in a line above its matrix, of which there are two
MOST_IN_PANEL = 60  # cells along a side of a matrix among others
PANEL = 1.3  # inches from one matrix to the next
SIDE, ROW = 0.9, 1.15  # of a matrix, and from one row of them to the next, in panels


def accuracy_matrix(group: Group) -> Picture:
    """Draw the accuracies after each task on each task, the mean over the seeds."""
    accuracy = _learnt(group)
    if np.isnan(accuracy).all():
        raise NoPictureError(f"{group.label} was not evaluated after any task")
    num_tasks, width = len(accuracy), width_of_bins(len(accuracy))
    side = max(3.2, 1.2 + 0.36 * min(num_tasks, MOST_NUMBERED))
    figure = new_figure(side + 1.2, side + 0.7)
    axes = figure.add_subplot()
    image = axes.imshow(binned(accuracy, width), cmap="viridis", vmin=0, vmax=100, interpolation="nearest")
    if num_tasks <= MOST_NUMBERED:
        show, size = (matrix_cell, 8.5) if num_tasks <= 10 else (lambda share: f"{100 * share:.0f}", 7)
        write_numbers(axes, accuracy / 100, show, size=size, is_dark=lambda share: share < DARK)
        lines = np.arange(1, num_tasks) - 0.5
        axes.hlines(lines, -0.5, num_tasks - 0.5, color="white", linewidth=1.5)
        axes.vlines(lines, -0.5, num_tasks - 0.5, color="white", linewidth=1.5)
    places, names = bin_ticks(num_tasks, width, most=MOST_NUMBERED)
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    name_axes(axes, "tested on task", "after task")
    clean(axes, spines=())
    add_scale(axes, image, "accuracy (%)")
    set_title(figure, run_name(group.spec), seeds_name(group) + bins_note(width, "tasks"))
    return Picture(figure)


def matrices(groups: Sequence[Group]) -> Picture:
    """Draw the accuracy matrices of at most 24 groups side by side, without numbers, in one scale."""
    known = [group for group in groups if not np.isnan(_learnt(group)).all()]
    if not known:
        raise NoPictureError("no group was evaluated after any task")
    shown = known[:MOST_SIDE_BY_SIDE]
    rows = max(1, round(math.sqrt(len(shown) / 1.6)))
    columns = math.ceil(len(shown) / rows)
    figure = new_figure(1.15 * PANEL * columns + 0.7, PANEL * ROW * rows + 0.9)
    axes = figure.add_subplot()
    for index, group in enumerate(shown):
        left, top = index % columns, ROW * (index // columns)
        place = (left, left + SIDE, top + SIDE, top)
        accuracy = _learnt(group)
        width = width_of_bins(len(accuracy), MOST_IN_PANEL)
        image = axes.imshow(binned(accuracy, width), cmap="viridis", vmin=0, vmax=100, extent=place)
        lines = textwrap.wrap(
            shortened(group.label, 2 * NAME_WIDTH - 4), NAME_WIDTH, max_lines=2, placeholder="…"
        )
        axes.text(left, top - 0.02, "\n".join(lines), fontsize=6.5, color=INK, va="bottom", in_layout=False)
    axes.set(
        xlim=(0, columns), ylim=(ROW * rows - ROW + SIDE, SIDE - ROW), xticks=[], yticks=[], aspect="equal"
    )
    name_axes(axes, "tested on task, in each", "after task, in each")
    clean(axes, spines=())
    add_scale(axes, image, "accuracy (%)")
    rest = f"; the first {len(shown)} of {len(known)} groups" if len(shown) < len(known) else ""
    set_title(figure, setting_name(groups), f"mean over the seeds{rest}{left_out(groups, len(known))}")
    return Picture(figure)


def _learnt(group: Group) -> Matrix:
    """Return the mean over the seeds in percent, NaN above the diagonal."""
    accuracy = 100 * group.accuracy.mean(axis=0)
    learnt: Matrix = np.where(np.tri(len(accuracy), dtype=bool), accuracy, np.nan)
    return learnt
