"""Draw accuracy over a cost on a logarithmic scale, with a name beside each point and the front as steps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from clbench.report.pictures.picture import Picture
from clbench.report.pictures.point_names import Line, name_points
from clbench.report.pictures.style import COLOURS, FAINT, PALE, clean, name_axes, new_figure, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHAPES = ((12, (6.4, 4.4), 8.0), (30, (8.5, 5.8), 7.0), (None, (12, 8), 6.5))  # points, inches, letters
LEAST_RANGE = 4.0  # from the cheapest to the dearest on the axis


@dataclass(frozen=True)
class Point:
    """What costs how much and is how accurate (%), with standard deviations where they are known."""

    name: str
    cost: float  # 0: it costs nothing, and is drawn as a line across
    accuracy: float
    cost_std: float = np.nan
    accuracy_std: float = np.nan


def scatter(
    points: Sequence[Point],
    *,
    label: str,
    tick: Callable[[float], str],
    title: str,
    below: str,
    front: Collection[str] = (),
) -> Picture:
    """Draw the points, and those of the front in another colour; ``tick`` writes a cost."""
    ordered = sorted(points, key=lambda point: -point.accuracy)  # the best have the first choice of places
    shown, free = ([point for point in ordered if (point.cost > 0) == has_cost] for has_cost in (True, False))
    shape, size = next((shape, size) for most, shape, size in SHAPES if most is None or len(points) <= most)
    figure = new_figure(*shape)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    _set_limits(axes, ordered, [point.cost for point in shown])
    steps = _front_steps([point for point in shown if point.name in front], axes.get_xlim()[1])
    for start, end in steps:
        axes.plot(*zip(start, end, strict=True), color=COLOURS[1], linewidth=1.2, alpha=0.6)
    for point in shown:
        _draw_point(axes, point, COLOURS[1] if point.name in front else COLOURS[0])
    for point in free:
        axes.axhline(point.accuracy, color=FAINT, linestyle=":", linewidth=1.2)
    _set_ticks(axes, tick)
    name_axes(axes, label, "test accuracy (%)")
    axes.grid(color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    clean(axes, spines=("left", "bottom"))
    set_title(figure, title, below)
    figure.draw_without_rendering()  # so that the axes know where a point lies
    figure.set_layout_engine("none")  # it stays there
    left, right = axes.get_xlim()
    places = {point.name: (point.cost or right, point.accuracy) for point in (*free, *shown)}
    levels = [((left, point.accuracy), (right, point.accuracy)) for point in free]
    bars = [bar for point in shown for bar in _bars(point)]
    nameless = name_points(axes, places, size, [*steps, *levels, *bars])
    if nameless:
        name_axes(axes, f"{label}; points without room for a name: {len(nameless)}", "test accuracy (%)")
    return Picture(figure)


def _set_limits(axes: Axes, points: Sequence[Point], costs: Sequence[float]) -> None:
    low, high = min(costs, default=1.0), max(costs, default=1.0)
    room = max(1.25 * (high / low) ** 0.05, (LEAST_RANGE * low / high) ** 0.5)
    axes.set_xlim(low / room, high * room)
    reach = [0.0 if np.isnan(point.accuracy_std) else point.accuracy_std for point in points]
    bottom = min(point.accuracy - std for point, std in zip(points, reach, strict=True))
    top = max(point.accuracy + std for point, std in zip(points, reach, strict=True))
    margin = max(0.06 * (top - bottom), 1.0)
    axes.set_ylim(bottom - margin, top + margin)


def _front_steps(front: Sequence[Point], right: float) -> list[Line]:
    """Return the lines of the most that can be had for a cost, level and upright, up to the right edge."""
    corners = sorted((point.cost, point.accuracy) for point in front)
    lines: list[Line] = []
    for (cost, accuracy), (dearer, better) in pairwise(
        [*corners, *((right, corners[-1][1]) for _ in corners[:1])]
    ):
        lines += [((cost, accuracy), (dearer, accuracy)), ((dearer, accuracy), (dearer, better))]
    return lines[:-1]


def _bars(point: Point) -> list[Line]:
    """Return the lines of one standard deviation on each side, of those that are known."""
    across, along = (std if std > 0 else 0.0 for std in (point.cost_std, point.accuracy_std))
    left = max(point.cost - across, point.cost / 1000)
    return [
        ((left, point.accuracy), (point.cost + across, point.accuracy)),
        ((point.cost, point.accuracy - along), (point.cost, point.accuracy + along)),
    ]


def _draw_point(axes: Axes, point: Point, colour: str) -> None:
    axes.plot(point.cost, point.accuracy, "o", color=colour, markersize=4.5, zorder=3)
    for start, end in _bars(point):
        axes.plot(*zip(start, end, strict=True), color=colour, linewidth=0.9, zorder=3)


def _set_ticks(axes: Axes, tick: Callable[[float], str]) -> None:
    low, high = axes.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    factors = (1,) if high / low > 100 else (1, 2, 5)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    shown = [cost for cost in ticks if low <= cost <= high]
    axes.set_xticks(shown, [re.sub(r"\.0+\b", "", tick(cost)) for cost in shown])
    axes.set_xticks([], minor=True)
