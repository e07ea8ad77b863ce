"""Draw how the accuracy on a task drops once the next one is learnt, and how it comes back.

The stability gap: M. De Lange, G. M. van de Ven and T. Tuytelaars, "Continual evaluation for lifelong
learning", ICLR 2023, arXiv 2205.13452.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clbench.report.groups import Group
from clbench.report.pictures.bands import Band, bands_figure, draw_bands, name_bands
from clbench.report.pictures.picture import NoPictureError, Picture
from clbench.report.pictures.style import (
    FAINT,
    left_out,
    line_style,
    name_axes,
    rule,
    set_title,
    setting_name,
    shortened,
)

SPREAD = "mean ± standard deviation over old tasks and seeds; dot: the lowest point"


def stability_gap(groups: Sequence[Group]) -> Picture:
    """Draw the change of accuracy on old tasks since the end of each, as far as all of them were followed."""
    bands = [band for group in groups for band in _band(group)]
    if not bands:
        raise NoPictureError("no run was looked at while it learnt; run with --set run.eval_every=10")
    figure = bands_figure(bands)
    axes = figure.add_subplot()
    axes.axhline(0, color=FAINT, linewidth=0.8)
    draw_bands(axes, bands, with_markers=False)
    for index, band in enumerate(bands):
        lowest = int(band.mean.argmin())
        axes.plot(band.places[lowest], band.mean[lowest], "o", color=line_style(index).colour, markersize=4.5)
    axes.set_xlim(0, max(band.places[-1] for band in bands))
    name_axes(axes, "training steps since the end of a task", "change of accuracy on it (points)")
    rule(axes)
    name_bands(figure, axes, bands)
    set_title(figure, setting_name(groups), SPREAD + left_out(groups, len(bands)))
    return Picture(figure)


def _band(group: Group) -> list[Band]:
    """Return the changes on each old task of each run, up to where all were followed; or nothing."""
    looks = [results.anytime for results in group.results]
    series = [
        (steps - steps[0], 100 * (accuracy - accuracy[0]))
        for each in looks
        if each and each.is_watched
        for steps, accuracy in each.old_tasks()
    ]
    if not series:
        return []
    until = min(steps[-1] for steps, _ in series)
    places = np.unique(np.concatenate([steps[steps <= until] for steps, _ in series]))
    curves = np.stack([np.interp(places, steps, change) for steps, change in series])
    return [Band(f"{shortened(group.label)} (n = {len(looks)})", places.tolist(), curves)]
