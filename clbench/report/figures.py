"""Draw the accuracy matrix as a heatmap and the accuracy on seen tasks as a curve."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from clbench.evaluate.results import is_tested
from clbench.record import safe_name
from clbench.report.drawing import COLOURS, INK, as_png, clean, name_axes, new_figure, run_name, set_title
from clbench.report.groups import Group, Matrix
from clbench.report.units import matrix_cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LineStyle = str | tuple[int, tuple[int, ...]]  # a name, or (offset, lengths of dashes and gaps)
LINES: tuple[LineStyle, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
DOTS: LineStyle = (0, (2, 3))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DARK = 0.6  # share of the colour scale below which a cell's text is white


def heatmap_png(group: Group) -> bytes:
    """Draw the accuracies after each task on each task, the mean over the seeds, as a PNG."""
    accuracy = 100 * group.accuracy.mean(axis=0)
    num_tasks = len(accuracy)
    side = max(3.2, 1.2 + 0.36 * num_tasks)
    figure = new_figure(side + 1.2, side + 0.7)
    axes = figure.add_subplot()
    learnt = np.tril(np.ones_like(accuracy, dtype=bool)) & ~np.isnan(accuracy)
    image = axes.imshow(np.where(learnt, accuracy, np.nan), cmap="viridis", vmin=0, vmax=100)
    for after, on in np.argwhere(learnt):
        value = accuracy[after, on]
        colour = "white" if value < 100 * DARK else INK
        text = f"{value:.0f}" if num_tasks > 10 else matrix_cell(value / 100)
        axes.text(
            on, after, text, ha="center", va="center", fontsize=7 if num_tasks > 10 else 8.5, color=colour
        )
    ticks, names = np.arange(num_tasks), [str(task + 1) for task in range(num_tasks)]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set_xticks(ticks[1:] - 0.5, minor=True)
    axes.set_yticks(ticks[1:] - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    name_axes(axes, "tested on task", "after task")
    clean(axes, spines=())
    bar = figure.colorbar(image, ax=axes, shrink=0.85, aspect=24)
    name_axes(bar.ax, "", "accuracy (%)")
    clean(bar.ax, spines=())
    set_title(figure, run_name(group.spec), _seeds(group))
    return as_png(figure)


def curve_png(groups: Sequence[Group]) -> bytes:
    """Draw the mean accuracy on the tasks seen so far, mean and spread over the seeds, as a PNG."""
    figure = new_figure(6.4, 4.0 + 0.2 * len(groups))
    axes = figure.add_subplot()
    positions, unit = _positions(groups)
    for index, group in enumerate(groups):
        _draw_curve(axes, group, positions[: len(group.classes_seen)], index)
    name_axes(axes, f"{unit} seen", "mean accuracy on the tasks seen (%)")
    axes.set_ylim(0, 100)
    axes.set_xticks(positions if len(positions) <= 10 else positions[1::2])
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    clean(axes, spines=("left", "bottom"))
    figure.legend(loc="outside lower center", ncols=_legend_columns(groups), frameon=False, fontsize=9)
    streams = dict.fromkeys(safe_name(group.spec.stream.name) for group in groups)
    backbones = dict.fromkeys(safe_name(group.spec.backbone.name) for group in groups)
    has_spread = any(len(group.records) > 1 for group in groups)
    spread = "mean ± standard deviation over n seeds" if has_spread else "one seed each"
    set_title(figure, f"{', '.join(streams)} · {', '.join(backbones)}", spread)
    return as_png(figure)


def _draw_curve(axes: Axes, group: Group, positions: Sequence[int], index: int) -> None:
    curves = 100 * np.stack([_seen_accuracy(matrix) for matrix in group.accuracy])
    mean = curves.mean(axis=0)
    colour = COLOURS[index % len(COLOURS)]
    line: LineStyle = LINES[index % len(LINES)]
    marker, label = MARKERS[index % len(MARKERS)], f"{group.label} (n = {len(curves)})"
    known = ~np.isnan(mean)
    if known.sum() == 1:  # joint training, for one: a level to reach
        line = DOTS
        axes.axhline(mean[known][0], color=colour, linestyle=line, linewidth=1.2)
    axes.plot(
        positions,
        mean,
        color=colour,
        linestyle=line,
        marker=marker,
        markersize=5,
        linewidth=1.6,
        clip_on=False,
        label=label,
    )
    if len(curves) > 1:
        std = curves.std(axis=0, ddof=1)
        axes.fill_between(positions, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)


def _seen_accuracy(matrix: Matrix) -> Matrix:
    """Return the mean over the tasks seen after each task; NaN unless all that have test images are known."""
    seen = np.tri(len(matrix), dtype=bool) & is_tested(matrix)
    return np.array([row[known].mean() for row, known in zip(matrix, seen, strict=True)])


def _positions(groups: Sequence[Group]) -> tuple[list[int], str]:
    """Return the places on the horizontal axis: classes if each task brings new ones to all, else tasks."""
    seen = max((group.classes_seen for group in groups), key=len)
    is_growing = all(fewer < more for fewer, more in pairwise(seen))
    if is_growing and all(group.classes_seen == seen[: len(group.classes_seen)] for group in groups):
        return seen, "classes"
    return list(range(1, len(seen) + 1)), "tasks"


def _seeds(group: Group) -> str:
    num_runs = len(group.records)
    return f"mean over n = {num_runs} seeds" if num_runs > 1 else f"seed {group.seeds[0]}, n = 1"


def _legend_columns(groups: Sequence[Group]) -> int:
    longest = max(len(group.label) for group in groups)
    return min(len(groups), 3 if longest <= 18 else 2 if longest <= 32 else 1)
