"""Let some classes leak into other tasks: i-Blurry-N-M.

H. Koh, D. Kim, J.-W. Ha, J. Choi, "Online Continual Learning on Class Incremental Blurry Task Configuration
with Anytime Inference", ICLR 2022, arXiv 2110.10031.

N per cent of the classes are disjoint: all their samples come in one task. Of each other class, M per cent of
the samples come in the other tasks. Each task has its share of the disjoint classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clbench.data.orders import ClassCut
from clbench.data.shares import all_but_one, in_segments
from clbench.seeds import Seeds


def blurry(
    labels: NDArray[np.int64], classes: ClassCut, disjoint_rate: float, blur_rate: float, seeds: Seeds
) -> list[NDArray[np.int64]]:
    """Return the places of each task's samples; those that leave are dealt evenly to the other tasks."""
    task = classes.home[labels]
    others_of = [np.delete(np.arange(classes.num_tasks), index) for index in range(classes.num_tasks)]
    for number in _blurry_classes(classes, disjoint_rate, seeds) if classes.num_tasks > 1 else []:
        random = seeds.numpy("blurry", number)
        places = random.permutation(np.flatnonzero(labels == number))
        leaving = places[: all_but_one(blur_rate, len(places))]
        others = random.permutation(others_of[classes.home[number]])
        task[leaving] = np.resize(others, len(leaving))
    return in_segments(task, classes.num_tasks, seeds)


def _blurry_classes(classes: ClassCut, disjoint_rate: float, seeds: Seeds) -> list[int]:
    """Draw the classes that are not disjoint, from each task in proportion to its size."""
    ends = np.cumsum([0, *classes.sizes])
    num_disjoint = np.diff(np.rint(disjoint_rate * ends)).astype(int)
    tasks = np.split(np.array(classes.order), ends[1:-1])
    drawn = [seeds.numpy("blurry-classes", index).permutation(own) for index, own in enumerate(tasks)]
    return [int(number) for own, count in zip(drawn, num_disjoint, strict=True) for number in own[count:]]
