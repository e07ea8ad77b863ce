"""Draw a line with a band for each group, and name it below the axes or, of many, at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clbench.report.pictures.style import INK, LineStyle, add_legend, line_style, new_figure, width_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = NDArray[np.float64]

MOST_IN_LEGEND = 7  # lines; of more, colours repeat and a name has to stand at its line
MOST_MARKED = 20  # places on a line
NAME_HEIGHT = 0.135  # inches that a name takes at the end of its line
NAME_SIZE = 7.5  # points
AROUND = 1.3  # inches above and below the axes
SHAPE = (6.4, 4.0)  # inches, without a legend


@dataclass(frozen=True)
class Band:
    """What is drawn of a group: K curves over the same X places, shown as their mean and spread."""

    name: str
    places: Sequence[float]  # (X,)
    curves: Values  # (K, X)

    @property
    def mean(self) -> Values:
        """The mean over the curves (X,); NaN where one of them is."""
        mean: Values = self.curves.mean(axis=0)
        return mean


def bands_figure(bands: Sequence[Band]) -> Figure:
    """Return a figure with room for the names of the lines."""
    num_bands = len(bands)
    width, height = SHAPE
    if num_bands <= MOST_IN_LEGEND:
        return new_figure(width, height + 0.2 * num_bands)
    names = width_of((band.name for band in bands), NAME_SIZE)
    return new_figure(width - 0.6 + names, max(height, num_bands * NAME_HEIGHT + AROUND))


def draw_bands(axes: Axes, bands: Sequence[Band], *, with_markers: bool = True) -> None:
    """Draw the mean of each group as a line, and one standard deviation around it."""
    few = len(bands) <= MOST_IN_LEGEND
    for index, band in enumerate(bands):
        style = line_style(index)
        known = ~np.isnan(band.mean)
        if known.sum() == 1:  # joint training, for one: a level to reach
            style = LineStyle(style.colour, (0, (2, 3)), style.marker)
            axes.axhline(band.mean[known][0], color=style.colour, linestyle=style.dashes, linewidth=1.2)
        axes.plot(
            band.places,
            band.mean,
            color=style.colour,
            linestyle=style.dashes,
            marker=style.marker if with_markers else "",
            markersize=5 if few else 3,
            markevery=-(-len(band.places) // MOST_MARKED),
            linewidth=1.6 if few else 1.1,
            clip_on=False,
            in_layout=False,
            label=band.name,
        )
        if len(band.curves) > 1:
            std = band.curves.std(axis=0, ddof=1)
            edges = band.mean - std, band.mean + std
            axes.fill_between(
                band.places, *edges, color=style.colour, alpha=0.15 if few else 0.07, linewidth=0
            )


def name_bands(figure: Figure, axes: Axes, bands: Sequence[Band]) -> None:
    """Name the lines once the limits of the axes are set: in a legend, or each at its end."""
    if len(bands) <= MOST_IN_LEGEND:
        add_legend(figure, [band.name for band in bands])
        return
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    known = [np.flatnonzero(~np.isnan(band.mean)) for band in bands]
    levels = np.array([band.mean[at[-1]] for band, at in zip(bands, known, strict=True)])
    ends = (levels - low) / (high - low)
    heights = spread(ends, NAME_HEIGHT / (figure.get_figheight() - AROUND))
    for index, (band, at) in enumerate(zip(bands, known, strict=True)):
        end = 1.0 if len(at) == 1 else (band.places[at[-1]] - left) / (right - left)
        _draw_name(axes, band.name, line_style(index), start=(end, ends[index]), height=heights[index])


def _draw_name(axes: Axes, name: str, style: LineStyle, *, start: tuple[float, float], height: float) -> None:
    """Write a name right of the axes, with a key, and lead to it from the end of its line."""
    place = axes.transAxes  # from the start, else the axes would make room for a line at these numbers
    axes.plot(
        [start[0], 1.04],
        [start[1], height],
        color=style.colour,
        linewidth=0.6,
        alpha=0.5,
        transform=place,
        clip_on=False,
        in_layout=False,
    )
    axes.plot(
        [1.04, 1.065, 1.09],
        [height] * 3,
        color=style.colour,
        linestyle=style.dashes,
        linewidth=1.2,
        marker=style.marker,
        markersize=3,
        markevery=[1],
        transform=place,
        clip_on=False,
        in_layout=False,
    )
    axes.text(1.1, height, name, transform=place, va="center", fontsize=NAME_SIZE, color=INK)


def spread(heights: Values, gap: float) -> Values:
    """Move heights in [0, 1] as far apart as the gap, in the same order, and keep them inside if they fit."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    free = heights[order] - steps  # where these rise, the heights are a gap apart
    up, down = np.maximum.accumulate(free), np.minimum.accumulate(free[::-1])[::-1]
    places = np.empty_like(free)
    places[order] = np.clip((up + down) / 2, 0, max(1 - steps[-1], 0)) + steps
    return places
