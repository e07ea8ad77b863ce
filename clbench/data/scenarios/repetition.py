"""Let classes come back in later tasks: class-incremental learning with repetition.

H. Hemati, A. Cossu, A. Carta, J. Hurtado, L. Pellegrini, D. Bacciu, V. Lomonaco, D. Borth, "Class-Incremental
Learning with Repetition", CoLLAs 2023, arXiv 2301.11396.

A class is new in the task that the protocol gives it to and comes back in each later one with the same
probability; its images are dealt out evenly over the tasks in which it occurs, each image once (our choice).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clbench.data.orders import ClassCut
from clbench.seeds import Seeds


def repetition(
    labels: NDArray[np.int64], classes: ClassCut, repeat_rate: float, seeds: Seeds
) -> list[NDArray[np.int64]]:
    """Return the places of each task's samples, in their old order."""
    task = np.empty(len(labels), dtype=np.int64)
    tasks = np.arange(classes.num_tasks)
    for number in classes.order:
        random = seeds.numpy("repetition", number)
        comes_back = random.random(classes.num_tasks) < repeat_rate
        home = classes.home[number]
        occurs = tasks[(tasks == home) | (comes_back & (tasks > home))]
        places = random.permutation(np.flatnonzero(labels == number))
        task[places] = np.sort(
            np.resize(occurs, len(places))
        )  # where they do not divide, the first get one more
    return [np.flatnonzero(task == index) for index in tasks]
