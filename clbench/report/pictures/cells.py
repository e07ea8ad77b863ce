"""Write numbers into the cells of a heatmap, and explain its colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clbench.report.groups import Matrix
from clbench.report.pictures.style import INK, clean, name_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage


def write_numbers(
    axes: Axes,
    values: Matrix,
    show: Callable[[float], str],
    *,
    size: float,
    is_dark: Callable[[float], bool],
) -> None:
    """Write each known value into its cell in letters of so many points, white where the cell is dark."""
    for row, column in np.argwhere(~np.isnan(values)):
        value = float(values[row, column])
        axes.text(
            column,
            row,
            show(value),
            ha="center",
            va="center",
            fontsize=size,
            color="white" if is_dark(value) else INK,
            in_layout=False,  # it is inside the axes anyway, and slow to measure
        )


def add_scale(axes: Axes, image: AxesImage, name: str, ticks: Sequence[float] | None = None) -> None:
    """Draw what the colours mean beside the axes."""
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.85, aspect=24, ticks=ticks)
    name_axes(bar.ax, "", name)
    clean(bar.ax, spines=())
