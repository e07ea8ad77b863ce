"""Draw how accuracy on the tasks seen, and what has been forgotten of them, change from task to task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from clbench.evaluate.means import mean
from clbench.evaluate.metrics.matrix import learnt
from clbench.evaluate.results import is_tested
from clbench.report.groups import Group, Matrix
from clbench.report.pictures.bands import Band, bands_figure, draw_bands, name_bands
from clbench.report.pictures.picture import NoPictureError, Picture
from clbench.report.pictures.style import (
    FAINT,
    left_out,
    name_axes,
    rule,
    set_title,
    setting_name,
    shortened,
    spread_name,
)

MOST_TICKS = 10


def accuracy_curve(groups: Sequence[Group]) -> Picture:
    """Draw the mean accuracy on the tasks seen so far, mean and spread over the seeds."""
    return _curves(groups, seen_accuracy, "mean accuracy on the tasks seen (%)", limits=(0, 100))


def forgetting_curve(groups: Sequence[Group]) -> Picture:
    """Draw the mean drop of the earlier tasks from their best accuracy, mean and spread over the seeds."""
    return _curves(groups, forgotten, "mean forgetting of earlier tasks (points)", limits=None)


def seen_accuracy(matrix: Matrix) -> Matrix:
    """Return the mean over the tasks seen after each task; NaN unless all that have test images are known."""
    seen = np.tri(len(matrix), dtype=bool) & is_tested(matrix)
    return np.array([row[known].mean() for row, known in zip(matrix, seen, strict=True)])


def forgotten(matrix: Matrix) -> Matrix:
    """Return F_k = 1/(k-1) Σ_{j<k} (max_{j≤l<k} R[l,j] - R[k,j]) after each task k; NaN after the first."""
    tested = is_tested(matrix)
    best = np.fmax.accumulate(learnt(matrix), axis=0)
    drops = [(best[k - 1] - matrix[k])[:k][tested[:k]] for k in range(1, len(matrix))]
    return np.array([np.nan, *map(mean, drops)])


def _curves(
    groups: Sequence[Group],
    curve: Callable[[Matrix], Matrix],
    name: str,
    *,
    limits: tuple[float, float] | None,
) -> Picture:
    positions, unit = _positions(groups)
    bands = []
    for group in groups:
        curves = 100 * np.stack([curve(matrix) for matrix in group.accuracy])
        if not np.isnan(curves.mean(axis=0)).all():
            label = f"{shortened(group.label)} (n = {len(curves)})"
            bands.append(Band(label, positions[: curves.shape[1]], curves))
    if not bands:
        raise NoPictureError(f"no run was evaluated after enough tasks for its {name.partition(' (')[0]}")
    figure = bands_figure(bands)
    axes = figure.add_subplot()
    draw_bands(axes, bands)
    if limits:
        axes.set_ylim(*limits)
    else:
        axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set_xticks(_some(positions))
    name_axes(axes, f"{unit} seen", name)
    rule(axes)
    name_bands(figure, axes, bands)
    set_title(figure, setting_name(groups), spread_name(groups) + left_out(groups, len(bands)))
    return Picture(figure)


def _positions(groups: Sequence[Group]) -> tuple[list[int], str]:
    """Return the places on the horizontal axis: classes if each task brings new ones to all, else tasks."""
    seen = max((group.classes_seen for group in groups), key=len)
    is_growing = all(fewer < more for fewer, more in pairwise(seen))
    if is_growing and all(group.classes_seen == seen[: len(group.classes_seen)] for group in groups):
        return seen, "classes"
    return list(range(1, len(seen) + 1)), "tasks"


def _some(positions: Sequence[int]) -> Sequence[int]:
    """Return at most ten of the positions, evenly spaced, the last among them."""
    every = -(-len(positions) // MOST_TICKS)
    return positions[(len(positions) - 1) % every :: every]
