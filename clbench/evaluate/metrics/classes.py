"""Follow each class instead of each task: in a stream without boundaries a class comes back in many tasks."""

from __future__ import annotations

import numpy as np

from clbench.evaluate import metric
from clbench.evaluate.means import mean
from clbench.evaluate.metrics.matrix import best_before_the_last
from clbench.evaluate.results import Results


@metric(
    "forgetting-classes",
    formula="F_last = 1/|C| Σ_{c in C} (max_{i<T} r[i,c] - r[T,c]), r[i,c]: accuracy on class c after task i",
    averaging="macro over the classes tested before the last task",
    reference="Moon et al. (Si-Blurry), ICCV 2023, arXiv 2308.09303",
    unknown="no class was tested before the last task",
    higher_is_better=False,
)
def forgetting_of_classes(results: Results) -> float:
    """Average the drop from a class's best earlier accuracy to its last; NaN for one task."""
    if results.class_accuracy is None:
        return float("nan")
    best = best_before_the_last(results.class_accuracy)
    return mean(best - results.class_accuracy[-1], ~np.isnan(best))


@metric(
    "amca",
    formula="AMCA = 1/T Σ_i 1/|C_i| Σ_{c in C_i} r[i,c], C_i: classes of the tasks seen after task i",
    averaging="macro over classes, then the mean over steps",
    reference="mean class accuracy, averaged over steps as by Rebuffi et al., CVPR 2017, arXiv 1611.07725",
    unknown="some step was not evaluated",
)
def average_class_accuracy(results: Results) -> float:
    """Average the mean accuracy of the classes seen over the steps."""
    if results.class_accuracy is None:
        return float("nan")
    is_known = ~np.isnan(results.class_accuracy)
    if not is_known.any(axis=1).all():
        return float("nan")
    means = np.nansum(results.class_accuracy, axis=1) / is_known.sum(axis=1)
    return float(means.mean())
