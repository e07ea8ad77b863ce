"""Give figures one style: colours that the colour-blind can tell apart, few lines, titles that fit.

Figures are made as objects, without matplotlib's global state; equal numbers give equal bytes.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clbench.record import safe_name
from clbench.spec import RunSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 200
INK, FAINT = "#222222", "#8a8a8a"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # Okabe and Ito
LETTERS = 12  # of a title, that go into an inch


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def run_name(spec: RunSpec) -> str:
    """Name a run as its figures' titles do."""
    stream, strategy, module, backbone = (
        safe_name(part.name) for part in (spec.stream, spec.strategy, spec.petl, spec.backbone)
    )
    return f"{stream} · {strategy}-{module} · {backbone}"


def set_title(figure: Figure, text: str, below: str) -> None:
    """Write a title, broken where the figure ends, and a line below it."""
    lines = textwrap.wrap(text, int(figure.get_figwidth() * LETTERS), break_on_hyphens=False)
    figure.suptitle("\n".join([*lines, below]), fontsize=9.5, color=INK, linespacing=1.4)


def name_axes(axes: Axes, below: str, beside: str) -> None:
    """Write what the two axes show, with the unit."""
    axes.set_xlabel(below, fontsize=9, color=INK)
    axes.set_ylabel(beside, fontsize=9, color=INK)


def clean(axes: Axes, spines: Sequence[str]) -> None:
    """Leave of an axes' frame and ticks what helps reading."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in spines)
        spine.set_color(FAINT)
    axes.tick_params(which="both", length=0, labelsize=8, labelcolor=INK)


def as_png(figure: Figure) -> bytes:
    """Return the figure as a file; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
