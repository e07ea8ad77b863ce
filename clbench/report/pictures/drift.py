"""Draw how far a representation moves: how alike it is after any two tasks, and each step to the next.

Both are of the same images, the test images of the probe set. T tasks, N pairs of images.
Linear CKA: S. Kornblith et al., ICML 2019,
arXiv 1905.00414.
"""

from __future__ import annotations

import numpy as np

from clbench.evaluate.metrics.representation import representation_drift
from clbench.evaluate.representations import Representations
from clbench.report.groups import Group, Matrix
from clbench.report.pictures.binning import bin_ticks, binned, bins_note, width_of_bins
from clbench.report.pictures.cells import add_scale, write_numbers
from clbench.report.pictures.picture import NoPictureError, Picture
from clbench.report.pictures.style import (
    COLOURS,
    clean,
    name_axes,
    new_figure,
    rule,
    run_name,
    seeds_name,
    set_title,
)

MOST_NUMBERED = 12  # tasks
MOST_MARKED = 60  # tasks whose drift has a dot of its own


def drift(group: Group) -> Picture:
    """Draw linear CKA of the features after any two tasks, and the drift of each task."""
    similarity, steps = similarities(group)
    num_tasks, width = len(similarity), width_of_bins(len(similarity))
    figure = new_figure(5.6, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    lowest = min(0.9, np.floor(10 * np.nanmin(similarity)) / 10)
    image = upper.imshow(
        binned(similarity, width), cmap="viridis", vmin=lowest, vmax=1, aspect="auto", interpolation="nearest"
    )
    if num_tasks <= MOST_NUMBERED:
        middle = (1 + lowest) / 2
        write_numbers(upper, similarity, lambda cka: f"{cka:.2f}", size=7, is_dark=lambda cka: cka < middle)
    places = (np.arange(num_tasks) + 0.5) / width - 0.5
    mean = steps.mean(axis=0)
    marker = "o" if num_tasks <= MOST_MARKED else ""
    lower.plot(places[1:], mean, marker=marker, color=COLOURS[0], markersize=4.5, linewidth=1.6)
    if len(steps) > 1:
        std = steps.std(axis=0, ddof=1)
        lower.fill_between(places[1:], mean - std, mean + std, color=COLOURS[0], alpha=0.15, linewidth=0)
    lower.set_ylim(0, 1.15 * max(np.nanmax(mean), 0.01))
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_ticks(*bin_ticks(num_tasks, width, most=MOST_NUMBERED))
    name_axes(upper, "", "after task")
    name_axes(lower, "after task", "drift")
    rule(lower)
    clean(upper, spines=())
    add_scale(upper, image, "similarity of features (linear CKA)")
    set_title(
        figure,
        run_name(group.spec),
        f"{seeds_name(group)}; drift: how far unit features move in a task{bins_note(width, 'tasks')}",
    )
    return Picture(figure)


def similarities(group: Group) -> tuple[Matrix, Matrix]:
    """Return linear CKA (T, T), the mean over the seeds, and the drifts (runs, T - 1) of successive tasks."""
    probes = [results.representations for results in group.results]
    known = [probe for probe in probes if probe and len(probe.after) > 1]
    if len(known) < len(probes):
        raise NoPictureError(f"{group.label} kept no features of the same images after two tasks or more")
    if len({len(probe.after) for probe in known}) > 1:
        raise NoPictureError(f"the seeds of {group.label} kept features after other numbers of tasks")
    similarity: Matrix = np.mean([_similarity(probe) for probe in known], axis=0)
    return similarity, np.array([representation_drift(probe) for probe in known])


def _similarity(probe: Representations) -> Matrix:
    """Return the linear CKA of any two tasks from products of images, as ‖YᵀX‖² = ⟨XXᵀ, YYᵀ⟩: (T, T).

    That is faster for fewer images than dimensions, and many tasks.
    """
    centred = [features - features.mean(axis=0) for features in probe.tested]
    gram_TN = np.stack([(features @ features.T).ravel() for features in centred])
    lengths = np.linalg.norm(gram_TN, axis=1, keepdims=True)
    unit_TN = np.divide(gram_TN, lengths, out=np.full_like(gram_TN, np.nan), where=lengths > 0)
    similarity: Matrix = unit_TN @ unit_TN.T
    return similarity
