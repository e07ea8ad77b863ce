"""List the ways in which the classes of a collection may come over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clbench.data.orders import ClassCut
from clbench.data.scenarios.blurry import blurry
from clbench.data.scenarios.gaussian import gaussian
from clbench.data.scenarios.options import ScenarioOptions
from clbench.data.scenarios.repetition import repetition
from clbench.data.scenarios.si_blurry import si_blurry
from clbench.seeds import Seeds

Arrange = Callable[[NDArray[np.int64], ClassCut, ScenarioOptions, Seeds], list[NDArray[np.int64]]]


@dataclass(frozen=True)
class Arrangement:
    """One way of arranging training images, and what it means to the stream."""

    arrange: Arrange  # labels (N,), the cut -> for each task the places of its images, each place once
    has_boundaries: bool = True  # whether tasks differ by more than being segments of one flow
    is_ordered: bool = False  # whether the order inside a task is the arrangement's


def disjoint(labels: NDArray[np.int64], classes: ClassCut) -> list[NDArray[np.int64]]:
    """Return the places of each task's samples: each class comes in one task only."""
    task = classes.home[labels]
    return [np.flatnonzero(task == index) for index in range(classes.num_tasks)]


ARRANGEMENTS = {
    "disjoint": Arrangement(lambda labels, classes, options, seeds: disjoint(labels, classes)),
    "blurry": Arrangement(
        lambda labels, classes, options, seeds: blurry(
            labels, classes, options.disjoint_rate, options.blur_rate, seeds
        ),
        has_boundaries=False,
        is_ordered=True,
    ),
    "si-blurry": Arrangement(
        lambda labels, classes, options, seeds: si_blurry(
            labels, classes, options.disjoint_rate, options.blur_rate, seeds
        ),
        has_boundaries=False,
        is_ordered=True,
    ),
    "gaussian": Arrangement(
        lambda labels, classes, options, seeds: gaussian(labels, classes, options.gaussian_width, seeds),
        has_boundaries=False,
        is_ordered=True,
    ),
    "repetition": Arrangement(
        lambda labels, classes, options, seeds: repetition(labels, classes, options.repeat_rate, seeds)
    ),
}
