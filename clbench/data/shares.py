"""Draw a share of each class: a limit, a held-out part; each class has a generator of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clbench.data.samples import Samples
from clbench.seeds import Seeds

Generator = Callable[[int], np.random.Generator]  # of a class number


@dataclass(frozen=True)
class Parts:
    """What a collection or a task is trained, tuned and tested on."""

    train: Samples
    validation: Samples
    test: Samples


def limit(samples: Samples, per_class: int, generator: Generator) -> Samples:
    """Keep at most so many samples of each class (0: all), in their old order."""
    if per_class == 0:
        return samples
    return samples.select(draw(samples.labels, lambda number, count: min(count, per_class), generator))


def hold_out(samples: Samples, rate: float, generator: Generator) -> tuple[Samples, Samples]:
    """Split off the rounded share of each class, but never its last sample; return the rest and the share."""
    held = draw(samples.labels, lambda number, count: all_but_one(rate, count), generator)
    return samples.select(~held), samples.select(held)


def draw(
    labels: NDArray[np.int64], how_many: Callable[[int, int], int], generator: Generator
) -> NDArray[np.bool_]:
    """Mark ``how_many(class, its count)`` places of each class, drawn by the class's own generator."""
    drawn = np.zeros(len(labels), dtype=np.bool_)
    for number in np.unique(labels).tolist():
        places = np.flatnonzero(labels == number)
        drawn[generator(number).permutation(places)[: how_many(number, len(places))]] = True
    return drawn


def all_but_one(rate: float, count: int) -> int:
    """Return the rounded share of a count, but never the whole of it."""
    return min(round(rate * count), count - 1)


def in_segments(task: NDArray[np.int64], num_tasks: int, seeds: Seeds) -> list[NDArray[np.int64]]:
    """Return the places of the samples of each task, a flow: each task's are shuffled."""
    return [
        seeds.numpy("flow", index).permutation(np.flatnonzero(task == index)) for index in range(num_tasks)
    ]
