"""Sum up the accuracy matrix: how much is known at the end and on the way, and what was forgotten.

R[i, j] is the accuracy on task j after task i; in the formulas tasks count from 1 to T and n_j is the number
of test images of task j. A mean that needs an unknown (NaN) cell is NaN itself: what was not measured is not
guessed. Tasks without test images, segments of a stream without boundaries, are left out. Cells above the
diagonal, about tasks not yet learnt, are never used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clbench.evaluate import metric
from clbench.evaluate.means import mean
from clbench.evaluate.results import Matrix, Results

GEM = "Lopez-Paz and Ranzato, NeurIPS 2017, arXiv 1706.08840"
ICARL = "Rebuffi et al., CVPR 2017, arXiv 1611.07725"
DIAZ_RODRIGUEZ = "Díaz-Rodríguez et al., 2018, arXiv 1810.13166"


@metric(
    "accuracy",
    formula="A_T = 1/T Σ_j R[T,j]",
    averaging="macro: tasks weigh the same",
    reference=GEM,
    unknown="a tested task has no accuracy after the last task",
)
def accuracy(results: Results) -> float:
    """Average the accuracies on all tasks after the last; NaN if it was not evaluated after the last."""
    return mean(results.accuracy[-1], results.is_tested)


@metric(
    "accuracy-micro",
    formula="Σ_j n_j R[T,j] / Σ_j n_j",
    averaging="micro: test images weigh the same",
    reference=ICARL,
    unknown="a tested task has no accuracy after the last task",
)
def accuracy_micro(results: Results) -> float:
    """Give the share of all test images that are right after the last task."""
    return _weighted_mean(results.accuracy[-1], results.num_test, results.is_tested)


@metric(
    "average-incremental-accuracy",
    formula="1/T Σ_k A_k, A_k = 1/k Σ_{j≤k} R[k,j]",
    averaging="macro over tasks, then the mean over steps",
    reference=ICARL,
    unknown="some step was not evaluated on all tasks seen",
)
def average_incremental_accuracy(results: Results) -> float:
    """Average the accuracy on the tasks seen so far over the steps."""
    steps = zip(results.accuracy, _seen(results), strict=True)
    return mean([mean(row, seen) for row, seen in steps])


@metric(
    "average-incremental-accuracy-micro",
    formula="1/T Σ_k (Σ_{j≤k} n_j R[k,j] / Σ_{j≤k} n_j)",
    averaging="micro over test images, then the mean over steps",
    reference=ICARL,
    unknown="some step was not evaluated on all tasks seen",
)
def average_incremental_accuracy_micro(results: Results) -> float:
    """Average the share of seen test images that are right over the steps."""
    steps = zip(results.accuracy, _seen(results), strict=True)
    return mean([_weighted_mean(row, results.num_test, seen) for row, seen in steps])


@metric(
    "forgetting",
    formula="1/(T-1) Σ_{j<T} (max_{j≤l<T} R[l,j] - R[T,j])",
    averaging="macro over the tasks before the last",
    reference="Chaudhry et al., ECCV 2018, arXiv 1801.10112",
    unknown="there is one task, or an old task has no accuracy at the end or none before",
    higher_is_better=False,
)
def forgetting(results: Results) -> float:
    """Average the drop from a task's best earlier accuracy to its last; negative if tasks improve.

    The maximum is over the earlier steps that are known. NaN for one task.
    """
    best = best_before_the_last(learnt(results.accuracy))[:-1]
    return mean(best - results.accuracy[-1, :-1], results.is_tested[:-1])


@metric(
    "forgetting-relative",
    formula="1/(T-1) Σ_{j<T} (max_{j≤l<T} R[l,j] - R[T,j]) / max_{j≤l<T} R[l,j]",
    averaging="macro over the tasks before the last that were ever right",
    reference="Chaudhry et al., ECCV 2018, arXiv 1801.10112, as a share of what there was to forget",
    unknown="there is one task, or an old task has no accuracy at the end or none before",
    higher_is_better=False,
)
def forgetting_relative(results: Results) -> float:
    """Average what share of a task's best earlier accuracy is lost at the end; negative if tasks improve."""
    best = best_before_the_last(learnt(results.accuracy))[:-1]
    drop = best - results.accuracy[-1, :-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = drop / best
    return mean(shares, results.is_tested[:-1] & (best != 0))


@metric(
    "bwt",
    formula="1/(T-1) Σ_{j<T} (R[T,j] - R[j,j])",
    averaging="macro over the tasks before the last",
    reference=GEM,
    unknown="there is one task, or a cell on the diagonal or in the last row is unknown",
)
def backward_transfer(results: Results) -> float:
    """Average the change from just after a task was learnt to the end; NaN for one task."""
    return mean((results.accuracy[-1] - results.accuracy.diagonal())[:-1], results.is_tested[:-1])


@metric(
    "bwt-d",
    formula="2/(T(T-1)) Σ_{i≥2} Σ_{j<i} (R[i,j] - R[j,j])",
    averaging="macro over all pairs of a task and a later step",
    reference=DIAZ_RODRIGUEZ,
    unknown="there is one task, or a cell on or below the diagonal is unknown",
)
def backward_transfer_of_all_steps(results: Results) -> float:
    """Average the change since a task was learnt over all later steps; NaN for one task."""
    change = results.accuracy - results.accuracy.diagonal()
    return mean(change, np.tri(results.num_tasks, k=-1, dtype=bool) & results.is_tested)


@metric(
    "bwt-positive",
    formula="BWT⁺ = max(BWT_D, 0)",
    averaging="macro over all pairs of a task and a later step",
    reference=DIAZ_RODRIGUEZ,
    unknown="bwt-d is",
)
def positive_backward_transfer(results: Results) -> float:
    """Give the gain on earlier tasks, 0 where they lose."""
    return float(np.maximum(backward_transfer_of_all_steps(results), 0.0))


@metric(
    "remembering",
    formula="REM = 1 - |min(BWT_D, 0)|",
    averaging="macro over all pairs of a task and a later step",
    reference=DIAZ_RODRIGUEZ,
    unknown="bwt-d is",
)
def remembering(results: Results) -> float:
    """Give what is left of one when the loss on earlier tasks is taken off, 1 where they gain."""
    return float(1.0 - np.abs(np.minimum(backward_transfer_of_all_steps(results), 0.0)))


@metric(
    "accuracy-d",
    formula="A_D = 2/(T(T+1)) Σ_{i≥j} R[i,j]",
    averaging="macro over all pairs of a task and a step since it was learnt",
    reference=DIAZ_RODRIGUEZ,
    unknown="a cell on or below the diagonal is unknown",
)
def accuracy_of_all_steps(results: Results) -> float:
    """Average the matrix on and below its diagonal."""
    return mean(results.accuracy, _seen(results))


@metric(
    "learning-accuracy",
    formula="1/T Σ_j R[j,j]",
    averaging="macro: tasks weigh the same",
    reference="Riemer et al., ICLR 2019, arXiv 1810.11910",
    unknown="a cell on the diagonal is unknown",
)
def learning_accuracy(results: Results) -> float:
    """Average the accuracy on each task just after it was learnt."""
    return mean(results.accuracy.diagonal(), results.is_tested)


def best_before_the_last(accuracies: Matrix) -> Matrix:
    """Return the best of each column (a task, a class) before the last row; NaN only where every step is."""
    best: Matrix = np.fmax.reduce(accuracies[:-1], axis=0, initial=np.nan)
    return best


def learnt(matrix: Matrix) -> Matrix:
    """Return the matrix with NaN above the diagonal."""
    return np.where(np.tri(len(matrix), dtype=bool), matrix, np.nan)


def _seen(results: Results) -> NDArray[np.bool_]:
    """Return which cells are about a tested task that was learnt by then."""
    return np.tri(results.num_tasks, dtype=bool) & results.is_tested


def _weighted_mean(values: Matrix, weights: NDArray[np.int64], which: NDArray[np.bool_]) -> float:
    return float(values[which] @ weights[which] / weights[which].sum())
