"""Draw a table's rows as points with names that do not cover each other."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tables import best_first

PLACES = (  # of a name beside its point: right, up, and the side of the name that is at the point
    *((4, -2, "left"), (-4, -2, "right"), (3, 4, "left"), (3, -9, "left"), (-3, 4, "right")),
    *((-3, -9, "right"), (0, 6, "center"), (0, -11, "center"), (14, 10, "left"), (14, -14, "left")),
)
COLOUR, FAINT = "#0072b2", "#8a8a8a"


def scatter(rows: Sequence[Mapping[str, object]], over: str, *, title: str, label: str) -> bytes:
    """Return a PNG of each row's accuracy over a column, on a logarithmic scale; a row with 0 is a line."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = {
        str(row["row"]): (float(str(row[over])), float(str(row["accuracy"]))) for row in best_first(rows)
    }
    shown = {name: point for name, point in points.items() if point[0] > 0}
    for name, (_, height) in points.items():
        if name not in shown:
            axes.axhline(height, color=FAINT, linestyle=":", linewidth=1.2)
            where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axes.annotate(name, (1, height), (0, 2), fontsize=7, color=FAINT, ha="right", **where)
    axes.scatter(*zip(*shown.values(), strict=True), s=14, c=COLOUR)
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(title, loc="left")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.draw_without_rendering()  # so that the axes know where a point lies
    nameless = sum(not name_point(axes, name, point) for name, point in shown.items())
    if nameless:
        axes.set_title(f"{nameless} of {len(shown)} points without room for a name", loc="right", size=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()


def name_point(axes: Axes, name: str, point: tuple[float, float]) -> bool:
    """Write a name beside a point where no other name is; tell whether there was room."""
    renderer = axes.get_figure().canvas.get_renderer()
    taken = [text.get_window_extent(renderer) for text in axes.texts]
    for aside, up, side in PLACES:
        text = axes.annotate(name, point, (aside, up), textcoords="offset points", ha=side, fontsize=6.5)
        if not any(text.get_window_extent(renderer).overlaps(other) for other in taken):
            return True
        text.remove()
    return False
