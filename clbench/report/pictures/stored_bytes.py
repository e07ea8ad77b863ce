"""Draw what a learner keeps between tasks as stacked bars: how many bytes of which kind."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clbench.report.groups import Group, Matrix
from clbench.report.pictures.picture import NoPictureError, Picture
from clbench.report.pictures.style import (
    COLOURS,
    FAINT,
    INK,
    PALE,
    add_legend,
    clean,
    left_out,
    name_axes,
    new_figure,
    set_title,
    setting_name,
    shortened,
    width_of,
)
from clbench.report.units import quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = "stored_bytes_by_kind."
PARTS = "stored_bytes."  # in records that do not tell the kinds
SUMS = ("total", "model-delta")  # of several kinds
ORDER = ("modules", "head", "prototypes", "covariances", "exemplars", "importance")  # of the kinds
OTHER = "other"
BAR_HEIGHT = 0.24  # inches
NAME_SIZE = 8.0  # points


def stored_bytes(groups: Sequence[Group]) -> Picture:
    """Draw a bar for each group, the shortest on top, of what it stores by kind, the mean over the seeds."""
    sizes = {shortened(group.label): size for group in groups for size in [_sizes(group)] if size}
    if not sizes:
        raise NoPictureError("no run knows the bytes that it stores")
    totals = {label: sum(size.values()) for label, size in sizes.items()}
    labels = sorted(totals, key=lambda label: totals[label])
    kinds = _kinds(sizes)
    height = 1.6 + BAR_HEIGHT * len(labels) + 0.2 * math.ceil(len(kinds) / 3)
    figure = new_figure(6.2 + width_of(labels, NAME_SIZE), height)
    axes = figure.add_subplot()
    _draw_bars(
        axes, {kind: np.array([_size(sizes[label], kind, kinds) for label in labels]) for kind in kinds}
    )
    for place, label in enumerate(labels):
        text = f" {quantity(totals[label], unit='B')}"
        axes.text(totals[label], place, text, va="center", fontsize=7.5, color=INK, in_layout=False)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(*totals.values(), 1))
    axes.xaxis.set_major_formatter(lambda value, _: re.sub(r"\.0+\b", "", quantity(value, unit="B")))
    axes.grid(axis="x", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    name_axes(axes, "bytes kept between tasks", "")
    clean(axes, spines=("left",))
    add_legend(figure, kinds)
    below = "beside the frozen backbone, mean over the seeds"
    set_title(figure, setting_name(groups), below + left_out(groups, len(labels)))
    return Picture(figure)


def _draw_bars(axes: Axes, widths_of_kind: Mapping[str, Matrix]) -> None:
    """Draw the bytes of each kind in each place, right of those of the kinds before."""
    left: Matrix = np.zeros_like(next(iter(widths_of_kind.values())))
    for index, (kind, widths) in enumerate(widths_of_kind.items()):
        colour = FAINT if kind == OTHER else COLOURS[index % len(COLOURS)]
        places = np.flatnonzero(widths)
        drawn = axes.barh(places, widths[places], 0.72, left=left[places], color=colour, label=kind)
        for bar in drawn:
            bar.set(edgecolor="white", linewidth=0.5)
        left = left + widths


def _sizes(group: Group) -> dict[str, float]:
    """Return the bytes of each kind, or of each part where the kinds are not known; nothing if unknown."""
    for prefix in (KINDS, PARTS):
        names = [key.removeprefix(prefix) for key in group.values[0] if key.startswith(prefix)]
        parts = [name for name in names if name not in SUMS]
        sizes = {shortened(name): group.statistic(prefix + name)[0] for name in parts}
        if sizes and not any(map(math.isnan, sizes.values())):
            return sizes
    return {}


def _kinds(sizes: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the kinds that anybody stores: in their order, or the largest first and the rest as other."""
    sums: dict[str, float] = {}
    for size in sizes.values():
        for kind, num_bytes in size.items():
            sums[kind] = sums.get(kind, 0.0) + num_bytes
    stored = [kind for kind in sums if sums[kind] > 0]
    if set(stored) <= {*ORDER, OTHER}:
        return [kind for kind in (*ORDER, OTHER) if kind in stored] or [OTHER]
    largest = sorted((kind for kind in stored if kind != OTHER), key=lambda kind: -sums[kind])
    most = len(COLOURS) - 1
    return largest if len(stored) <= most and OTHER not in stored else [*largest[:most], OTHER]


def _size(size: Mapping[str, float], kind: str, kinds: Sequence[str]) -> float:
    if kind == OTHER:
        return sum(num_bytes for name, num_bytes in size.items() if name == OTHER or name not in kinds)
    return size.get(kind, 0.0)
