"""Write names beside points so that no name covers another name or a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clbench.report.pictures.style import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEAR = (  # of a name beside its point, in points: right, up, and the side of the name that is at the point
    *((5, 0, "left"), (-5, 0, "right"), (3, 7, "left"), (3, -7, "left"), (-3, 7, "right")),
    *((-3, -7, "right"), (0, 9, "center"), (0, -9, "center")),
)
FAR = tuple(  # places that a line joins to the point
    (right * distance, up * distance, side)
    for distance in (14, 22, 32, 44)
    for right, side in ((1, "left"), (-1, "right"), (0.5, "left"), (-0.5, "right"))
    for up in (1, -1)
)
START = {"left": 0.0, "center": 0.5, "right": 1.0}  # share of a name that is left of its anchor
RADIUS = 3.0  # points around a point that a name keeps free

Box = NDArray[np.float64]  # left, bottom, right, top, in pixels
Line = tuple[tuple[float, float], tuple[float, float]]  # between two points, level or upright
Place = tuple[float, float, str]


def name_points(
    axes: Axes, points: Mapping[str, tuple[float, float]], size: float, lines: Sequence[Line] = ()
) -> list[str]:
    """Write each name beside its point in letters of so many points; return those without room for it.

    The figure must have been laid out, and the first names have the first choice. A name crosses a line only
    where there is no other room.
    """
    if not points:
        return []
    pixel = axes.figure.dpi / 72
    at_P2 = axes.transData.transform(list(points.values()))
    taken = [_box_around(place, place, RADIUS * pixel) for place in at_P2]
    crossed = [_box_around(start, end, pixel) for start, end in map(axes.transData.transform, lines)]
    nameless = []
    for index, (name, point) in enumerate(points.items()):
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", va="center", fontsize=size)
        text.set(color=INK, in_layout=False)
        extent = text.get_window_extent()
        others = taken[:index] + taken[index + 1 :]
        for avoided in ([*others, *crossed], others):
            found = _free_place(at_P2[index], (extent.width, extent.height), avoided, axes, pixel)
            if found:
                break
        if found:
            (right, up, side), box = found
            text.set(position=(right, up), ha=side)
            if (right, up, side) in FAR:
                join = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
                axes.annotate("", point, (right, up), textcoords="offset points", arrowprops=join)
            taken.append(box)
        else:
            text.remove()
            nameless.append(name)
    return nameless


def _free_place(
    point: Box, shape: tuple[float, float], avoided: Sequence[Box], axes: Axes, pixel: float
) -> tuple[Place, Box] | None:
    """Return the first place beside a point where a name of a shape covers nothing, and what it covers."""
    frame = axes.get_window_extent()
    for right, up, side in (*NEAR, *FAR):
        left = point[0] + right * pixel - START[side] * shape[0]
        bottom = point[1] + up * pixel - shape[1] / 2
        box = np.array([left, bottom, left + shape[0], bottom + shape[1]])
        is_inside = frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1
        if is_inside and not overlaps(box, avoided):
            return (right, up, side), box
    return None


def overlaps(box: Box, others: Sequence[Box]) -> bool:
    """Tell whether a box shares an area with any of the others."""
    if not others:
        return False
    left, bottom, right, top = np.stack(others, axis=1)
    return bool(((left < box[2]) & (right > box[0]) & (bottom < box[3]) & (top > box[1])).any())


def _box_around(start: Box, end: Box, margin: float) -> Box:
    """Return the box that two corners span, and a margin."""
    return np.concatenate([np.minimum(start, end) - margin, np.maximum(start, end) + margin])
