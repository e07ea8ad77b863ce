"""Draw which classes the last evaluation took for which, with the blocks of the tasks outlined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clbench.report.groups import Group, Matrix
from clbench.report.pictures.binning import bin_ticks, binned_shares, width_of_bins
from clbench.report.pictures.cells import add_scale, write_numbers
from clbench.report.pictures.picture import NoPictureError, Picture
from clbench.report.pictures.style import (
    COLOURS,
    clean,
    name_axes,
    new_figure,
    run_name,
    seeds_name,
    set_title,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMED = 20  # classes, or tasks
MOST_OUTLINED = 60  # tasks; the outlines of more would hide what they are around
MOST_NUMBERED = 12  # classes; the numbers of more would be too small to read
DARK = 30.0  # percent from which a cell's number is white
LONGEST_CLASS = 24  # letters
GAMMA = 0.5  # of the colours: half the scale is for shares below a quarter


def confusion(group: Group) -> Picture:
    """Draw the share of each class's test images that is taken for each class, over all seeds together."""
    tasks = group.records[0].read_json("matrix.json")["classes_of_task"]
    shares = confusion_shares(group)
    seeds = f"{len(group.records)} seeds together" if len(group.records) > 1 else seeds_name(group)
    names = _class_names(group, len(shares))
    return draw_confusion(shares, names, blocks(tasks), title=run_name(group.spec), below=seeds)


def draw_confusion(
    shares: Matrix, names: Sequence[str], spans: Sequence[tuple[int, int]], *, title: str, below: str
) -> Picture:
    """Draw which classes are taken for which.

    Args:
        shares: (C, C) of the images of a class, in a row, that are taken for each; NaN where there are none.
        names: Of the classes.
        spans: First and last class of each task, to be outlined.
        title: What is shown.
        below: What is written below the title.
    """
    from matplotlib.colors import PowerNorm

    shares = 100 * shares
    num_classes, width = len(shares), width_of_bins(len(shares))
    spans = [] if width > 1 else spans
    outlined = spans if len(spans) <= MOST_OUTLINED else []
    figure = new_figure(6.2, 5.5) if num_classes <= MOST_NUMBERED else new_figure(7.2, 6.5)
    axes = figure.add_subplot()
    shown = binned_shares(shares, width)
    image = axes.imshow(shown, cmap="Blues", norm=PowerNorm(GAMMA, 0, 100), interpolation="nearest")
    if num_classes <= MOST_NUMBERED:
        some = np.where(shares < 0.5, np.nan, shares)  # what would be written as 0
        write_numbers(axes, some, lambda share: f"{share:.0f}", size=7.5, is_dark=lambda share: share > DARK)
    _outline(axes, outlined)
    _name_classes(axes, names, num_classes, spans, width)
    clean(axes, spines=("left", "right", "top", "bottom"))
    whose = "class's" if width == 1 else "bin's"
    add_scale(axes, image, f"share of the {whose} images (%)", ticks=[0, 5, 20, 50, 100])
    below += "; outlined: the classes of a task" if outlined else ""
    below += f"; a bin: {width} classes in the order they came" if width > 1 else ""
    set_title(figure, title, below)
    return Picture(figure)


def shares_of_each(label: NDArray[np.integer], prediction: NDArray[np.integer], num_classes: int) -> Matrix:
    """Return (C, C): the share of each class's images that is taken for each; NaN for one without images."""
    counts = np.bincount(label.astype(np.int64) * num_classes + prediction, minlength=num_classes**2)
    counts = counts.reshape(num_classes, num_classes)
    num = counts.sum(axis=1, keepdims=True)
    shares: Matrix = np.divide(counts, num, out=np.full(counts.shape, np.nan), where=num > 0)
    return shares


def confusion_shares(group: Group) -> Matrix:
    """Return the shares of the last evaluation, over all runs of the group."""
    logs = [results.last for results in group.results if results.last.get("label", np.zeros(0)).size]
    if not logs:
        raise NoPictureError(f"{group.label} kept no predictions")
    label, prediction = (np.concatenate([log[name] for log in logs]) for name in ("label", "prediction"))
    num_classes = 1 + int(max(label.max(), prediction.max(), group.classes_seen[-1] - 1))
    return shares_of_each(label, prediction, num_classes)


def blocks(tasks: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Return first and last class of each task; nothing where tasks share classes or mix their order."""
    spans = [(min(classes), max(classes)) for classes in tasks if classes]
    is_apart = (
        sum(last - first + 1 for first, last in spans) == len(set().union(*tasks)) == sum(map(len, tasks))
    )
    return spans if is_apart else []


def _outline(axes: Axes, spans: Sequence[tuple[int, int]]) -> None:
    corners = [
        (column, row)
        for first, last in spans
        for low, high in [(first - 0.5, last + 0.5)]
        for column, row in [(low, low), (high, low), (high, high), (low, high), (low, low), (np.nan, np.nan)]
    ]
    if corners:
        axes.plot(*zip(*corners, strict=True), color=COLOURS[1], linewidth=1.2, clip_on=False)


def _name_classes(
    axes: Axes, names: Sequence[str], num_classes: int, spans: Sequence[tuple[int, int]], width: int
) -> None:
    """Name the classes where there is room, else the tasks, else number the classes."""
    ticks: Sequence[float]
    if num_classes <= MOST_NAMED:
        noun, ticks = "class", list(range(num_classes))
        names = [shortened(name, LONGEST_CLASS) for name in names]
    elif 1 < len(spans) <= MOST_NAMED:
        noun, ticks = "class, by task", [(first + last) / 2 for first, last in spans]
        names = [str(task + 1) for task in range(len(spans))]
    else:
        places, names = bin_ticks(num_classes, width, first=0)
        noun, ticks = "class", places.tolist()
    axes.set_xticks(ticks, names)
    if max(map(len, names)) > 3:
        axes.tick_params(axis="x", rotation=90)
    axes.set_yticks(ticks, names)
    name_axes(axes, f"predicted {noun}", f"true {noun}")


def _class_names(group: Group, num_classes: int) -> list[str]:
    """Return the names of the classes in stream order, or their numbers where the seeds have other orders."""
    orders = [record.read_json("matrix.json").get("class_names", []) for record in group.records]
    if any(names != orders[0] for names in orders) or len(orders[0]) < num_classes:
        return [str(number) for number in range(num_classes)]
    return [*map(str, orders[0][:num_classes])]
