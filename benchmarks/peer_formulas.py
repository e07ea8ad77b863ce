"""Write out how other libraries compute forgetting and transfer, from their published code, to compare.

R[i][j] is the accuracy on task j after task i, counted from 0; NaN where it was not measured. Each function
is our own writing of what the named file computes; ``docs/cross-checks.md`` shows what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def means_of_tasks(accuracy: Matrix) -> tuple[float, float]:
    """Accuracy at the end and its average over steps in Mammoth and Renate: tasks weigh the same."""
    steps = np.array([row[: 1 + task].mean() for task, row in enumerate(accuracy)])
    return float(steps[-1]), float(steps.mean())


def means_of_images(accuracy: Matrix, num_images: Sequence[int]) -> tuple[float, float]:
    """Accuracy and its average over steps in PyCIL, PILOT and Renate's "micro": images weigh the same."""
    seen = [slice(1 + task) for task in range(len(accuracy))]
    steps = [np.average(row[s], weights=num_images[s]) for row, s in zip(accuracy, seen, strict=True)]
    return float(steps[-1]), float(np.mean(steps))


def pilot_forgetting(accuracy: Matrix) -> float:
    """Forgetting of PILOT (trainer.py): the peak may be in the last row; only tasks seen are tested.

    It rounds accuracies, in percent, to two decimals before.
    """
    rows = np.tril(np.round(accuracy, 4))
    return float((rows.max(axis=0) - rows[-1])[:-1].mean())


def mammoth_forgetting(accuracy: Matrix) -> float:
    """Forgetting of Mammoth (utils/metrics.py, training.py): as PILOT's, but the next task is tested, too."""
    rows = np.tril(np.nan_to_num(accuracy), k=1)
    return float((rows.max(axis=0) - rows[-1])[:-1].mean())


def renate_forgetting(accuracy: Matrix) -> float:
    """Forgetting of Renate (evaluation/metrics/classification.py): with the rows before a task was learnt."""
    rows = np.nan_to_num(accuracy)
    return float((rows[:-1].max(axis=0) - rows[-1])[:-1].mean())


def continuum_forgetting(accuracy: Matrix) -> float:
    """Forgetting of Continuum c14e70f (metrics/metrics.py): from the peak since a task was learnt."""
    earlier = range(len(accuracy) - 1)
    return float(np.mean([accuracy[task:-1, task].max() - accuracy[-1, task] for task in earlier]))


def old_continuum_forgetting(accuracy: Matrix) -> float:
    """Forgetting of Continuum 265a985 and release 1.2.7 (issue 291): without the last two tasks and rows."""
    num_tasks = len(accuracy)
    drops = [accuracy[task : num_tasks - 2, task].max() - accuracy[-1, task] for task in range(num_tasks - 2)]
    return float(sum(drops)) / (num_tasks - 1)


def libcontinual_forgetting(accuracy: Matrix) -> float:
    """Forgetting of LibContinual (core/utils/utils.py): from the first value, without the last two tasks."""
    num_tasks = len(accuracy)
    return float((accuracy.diagonal() - accuracy[-1])[: num_tasks - 2].sum()) / (num_tasks - 1)


def gem_bwt(accuracy: Matrix) -> float:
    """Backward transfer of Mammoth and Renate (the same files): that of GEM."""
    return float((accuracy[-1] - accuracy.diagonal())[:-1].mean())


def continuum_bwt(accuracy: Matrix) -> float:
    """Backward transfer of Continuum c14e70f: over all later steps."""
    change = accuracy - accuracy.diagonal()
    return float(change[np.tri(len(accuracy), k=-1, dtype=bool)].mean())


def old_continuum_bwt(accuracy: Matrix) -> float:
    """Backward transfer of LibContinual and Continuum 265a985: without the task just before each row's."""
    num_tasks = len(accuracy)
    changes = [
        accuracy[row, task] - accuracy[task, task] for row in range(num_tasks) for task in range(row - 1)
    ]
    return float(sum(changes)) / (num_tasks * (num_tasks - 1) / 2)


def gem_fwt(accuracy: Matrix, untrained: Matrix) -> float:
    """Forward transfer of Mammoth and Renate (the same files): that of GEM."""
    return float((accuracy.diagonal(offset=1) - untrained[1:]).mean())


def continuum_fwt(accuracy: Matrix, untrained: Matrix) -> float:
    """Forward transfer of Continuum c14e70f: without b, and the sum is divided by the number of pairs."""
    num_tasks = len(accuracy)
    return float(accuracy.diagonal(offset=1).sum()) / (num_tasks * (num_tasks - 1) / 2)


def old_continuum_fwt(accuracy: Matrix, untrained: Matrix) -> float:
    """Forward transfer of Continuum 265a985: the mean accuracy on earlier tasks, below the diagonal."""
    return float(accuracy[np.tri(len(accuracy), k=-1, dtype=bool)].mean())


def pycil_forgetting(class_accuracy: Matrix, num_seen: Sequence[int]) -> float:
    """Forgetting of PyCIL (trainer.py, utils/toolkit.py): PILOT's, of groups of ten classes, sorted by name.

    ``class_accuracy`` (T, C) is in percent, of classes with as many test images each; ``num_seen`` are the
    classes seen after each task. ValueError where there are more groups than tasks.
    """
    num_tasks = len(num_seen)
    table = np.zeros((num_tasks, num_tasks))
    for row, seen in enumerate(num_seen):
        starts = range(0, seen - 1, 10)
        groups = {
            f"{start:02}-{start + 9:02}": np.round(
                class_accuracy[row, start : min(start + 10, seen)].mean(), 2
            )
            for start in starts
        }
        table[row, : len(groups)] = [groups[name] for name in sorted(groups)]
    return float((table.max(axis=0) - table[-1])[:-1].mean())
