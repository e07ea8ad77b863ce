"""Give figures one style: colours that the colour-blind can tell apart, few lines, titles that fit."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clbench.outside.visible import visible
from clbench.records.record import safe_name
from clbench.records.spec import RunSpec
from clbench.report.groups import Group, setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, PALE = "#222222", "#8a8a8a", "#e6e6e6"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # Okabe and Ito
MOST_BELOW = 9  # names in a legend below the axes
LEGEND_SIZE = 7.5  # points, of one beside them
LONGEST_NAME = 60  # letters of a group in a picture
LETTERS = 12  # of a title, that go into an inch

Dashes = str | tuple[int, tuple[int, ...]]  # a name, or (offset, lengths of dashes and gaps)
LINES: tuple[Dashes, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class LineStyle:
    """How one group's line looks; the first 35 differ."""

    colour: str
    dashes: Dashes
    marker: str


def line_style(index: int) -> LineStyle:
    """Return the style of the line of a number."""
    return LineStyle(COLOURS[index % len(COLOURS)], LINES[index % len(LINES)], MARKERS[index % len(MARKERS)])


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def run_name(spec: RunSpec) -> str:
    """Name a run as its figures' titles do."""
    stream, strategy, module, backbone = (
        safe_name(part.name) for part in (spec.stream, spec.strategy, spec.petl, spec.backbone)
    )
    return f"{stream} · {strategy}-{module} · {backbone}"


def setting_name(groups: Sequence[Group]) -> str:
    """Name the streams and the backbones of the groups."""
    streams = dict.fromkeys(safe_name(group.spec.stream.name) for group in groups)
    backbones = dict.fromkeys(safe_name(group.spec.backbone.name) for group in groups)
    strategy = setting(groups)[2:]  # where all share it, and their labels leave it out
    return " · ".join([", ".join(streams), ", ".join(backbones), *strategy])


def seeds_name(group: Group) -> str:
    """Say over how many seeds a group's picture is a mean."""
    num_runs = len(group.records)
    return f"mean over n = {num_runs} seeds" if num_runs > 1 else f"seed {group.seeds[0]}, n = 1"


def spread_name(groups: Sequence[Group]) -> str:
    """Say what the bands are."""
    has_spread = any(len(group.records) > 1 for group in groups)
    return "mean ± standard deviation over n seeds" if has_spread else "one seed each"


def left_out(groups: Sequence[Group], num_shown: int) -> str:
    """Say how many of the groups have no data for a picture; nothing if all have."""
    num_missing = len(groups) - num_shown
    return f"; {num_missing} group{'s have' if num_missing > 1 else ' has'} no data" if num_missing else ""


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """Return a name in at most so many letters, cut in its middle, as text that is no formula."""
    name, start = visible(name), most // 3
    short = name if len(name) <= most else f"{name[:start]}…{name[start + 1 - most :]}"
    return short.replace("$", r"\$")


def width_of(names: Iterable[str], size: float) -> float:
    """Return about how many inches the longest name takes in letters of so many points."""
    return max(map(len, names)) * size * 0.6 / 72


def set_title(figure: Figure, text: str, below: str) -> None:
    """Write a title, broken where the figure ends, and a line below it."""
    width = int(figure.get_figwidth() * LETTERS)
    lines = [line for part in (text, below) for line in textwrap.wrap(part, width, break_on_hyphens=False)]
    figure.suptitle("\n".join(lines), fontsize=9.5, color=INK, linespacing=1.4)


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


def rule(axes: Axes) -> None:
    """Draw pale lines across, behind the data, and keep the left and the lower side of the frame."""
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    clean(axes, spines=("left", "bottom"))


def add_legend(figure: Figure, names: Sequence[str]) -> None:
    """Explain what is drawn: below the axes, in as many columns as there is room for, or beside them."""
    if len(names) > MOST_BELOW:
        figure.legend(loc="outside right center", frameon=False, fontsize=LEGEND_SIZE)
        return
    longest = max(map(len, names))
    columns = min(len(names), 3 if longest <= 18 else 2 if longest <= 32 else 1)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
