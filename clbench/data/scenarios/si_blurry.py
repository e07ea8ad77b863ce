"""Leave to chance which task a class belongs to and where its stray samples go: Si-Blurry.

J.-Y. Moon, K.-H. Park, J. U. Kim, G.-M. Park, "Online Class Incremental Learning on Stochastic Blurry Task
Boundary via Mask and Visual Prompt Tuning", ICCV 2023, arXiv 2308.09303.

A share of the classes is disjoint, the others are blurry; tasks get uneven numbers of both. A share of the
blurry classes' samples is pooled and scattered unevenly over all tasks. Uneven means: cut at uniformly drawn
points (our choice). The sizes that ``tasks`` spells do not matter, only the number of tasks.

Differs from the paper: every task has one class at least, so that none is empty.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clbench.data.orders import ClassCut
from clbench.data.shares import all_but_one, draw, in_segments
from clbench.seeds import Seeds


def si_blurry(
    labels: NDArray[np.int64], classes: ClassCut, disjoint_rate: float, blur_rate: float, seeds: Seeds
) -> list[NDArray[np.int64]]:
    """Return the places of each task's samples."""
    random = seeds.numpy("si-blurry")
    num_classes, num_tasks = len(classes.order), classes.num_tasks
    shuffled = random.permutation(classes.order)
    disjoint, mixed = np.split(shuffled, [round(disjoint_rate * num_classes)])
    home = np.empty(num_classes, dtype=np.int64)
    for group in (disjoint, mixed):
        home[group] = _uneven(len(group), num_tasks, random)
    home[random.permutation(classes.order)[:num_tasks]] = np.arange(num_tasks)  # one class a task at least
    stray = draw(
        labels,
        lambda number, count: all_but_one(blur_rate, count) if number in mixed else 0,
        lambda number: seeds.numpy("blurry", number),
    )
    task = home[labels]
    pool = random.permutation(np.flatnonzero(stray))
    task[pool] = _uneven(len(pool), num_tasks, random)
    return in_segments(task, num_tasks, seeds)


def _uneven(count: int, num_tasks: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return a task for each of so many things: ascending, changing at uniformly drawn points."""
    cuts = np.sort(random.integers(0, count + 1, size=num_tasks - 1))
    return np.searchsorted(cuts, np.arange(count), side="right")
