"""Draw whether confidence means what it says: accuracy over confidence, and how often each is claimed.

The reliability diagram: C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural
networks", ICML 2017, arXiv 1706.04599.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clbench.evaluate.metrics.calibration import NUM_BINS, bins_of, expected_calibration_error
from clbench.report.groups import Group
from clbench.report.pictures.picture import NoPictureError, Picture
from clbench.report.pictures.style import (
    FAINT,
    LEGEND_SIZE,
    MOST_BELOW,
    add_legend,
    left_out,
    line_style,
    name_axes,
    new_figure,
    rule,
    set_title,
    setting_name,
    shortened,
    width_of,
)
from clbench.report.units import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGEST_DOT = 120  # square points, of all predictions in one bin


@dataclass(frozen=True)
class Reliability:
    """What a group's last predictions say in each bin of confidence, all seeds together; NaN: none there."""

    name: str
    confidence: NDArray[np.float64]  # (bins,): the mean
    accuracy: NDArray[np.float64]  # (bins,)
    share: NDArray[np.float64]  # (bins,): of all predictions


def calibration(groups: Sequence[Group]) -> Picture:
    """Draw accuracy over confidence in 15 bins after the last task, and below it the share of each bin."""
    found = [each for group in groups for each in [reliability(group)] if each]
    if not found:
        raise NoPictureError("no run kept predictions with a confidence")
    figure = _new_figure([each.name for each in found])
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 100], [0, 100], color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
    edges = np.linspace(0, 100, NUM_BINS + 1)
    for index, each in enumerate(found):
        _draw(upper, each, index)
        style = line_style(index)
        lower.stairs(100 * each.share, edges, color=style.colour, linestyle=style.dashes, linewidth=1.2)
    upper.set(xlim=(0, 100), ylim=(0, 100))
    lower.set_ylim(bottom=0)
    name_axes(upper, "", "accuracy (%)")
    name_axes(lower, "confidence (%)", "share of images (%)")
    rule(upper)
    rule(lower)
    add_legend(figure, [each.name for each in found])
    below = "last evaluation, 15 bins; the larger a dot, the more images in it"
    set_title(figure, setting_name(groups), below + left_out(groups, len(found)))
    return Picture(figure)


def _new_figure(names: Sequence[str]) -> Figure:
    """Return a figure with room for the names below it or, if they are many, beside it."""
    if len(names) <= MOST_BELOW:
        return new_figure(6.4, 5.2 + 0.2 * len(names))
    return new_figure(6.2 + width_of(names, LEGEND_SIZE), max(5.2, 0.17 * len(names) + 1))


def reliability(group: Group) -> Reliability | None:
    """Return what a group's last predictions say of its confidence; None if no confidence is known."""
    known = [results for results in group.results if not np.isnan(results.confidence).all()]
    if not known:
        return None
    confidence, correct = (
        np.concatenate([getattr(each, name) for each in known]) for name in ("confidence", "correct")
    )
    confidence, correct = confidence[~np.isnan(confidence)], correct[~np.isnan(confidence)]
    bins = bins_of(confidence)
    num, hits, sums = (
        np.bincount(bins, each, NUM_BINS) for each in (np.ones_like(confidence), correct, confidence)
    )
    num_known = np.where(num, num, np.nan)
    errors = np.array([expected_calibration_error(results) for results in known])
    std = errors.std(ddof=1) if len(errors) > 1 else np.nan
    name = f"{shortened(group.label)}: ECE {percent(errors.mean(), std)} %"
    return Reliability(name, sums / num_known, hits / num_known, num / num.sum())


def _draw(axes: Axes, each: Reliability, index: int) -> None:
    style, known = line_style(index), each.share > 0
    confidence, accuracy = 100 * each.confidence[known], 100 * each.accuracy[known]
    axes.plot(
        confidence,
        accuracy,
        color=style.colour,
        linestyle=style.dashes,
        marker=style.marker,
        markersize=3,
        linewidth=1.2,
        clip_on=False,
        in_layout=False,
        label=each.name,
    )
    axes.scatter(
        confidence,
        accuracy,
        s=LARGEST_DOT * each.share[known],
        color=style.colour,
        marker=style.marker,
        clip_on=False,
    )
