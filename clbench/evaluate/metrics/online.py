"""Sum up the looks at a learner while it learns: how good it is at any time, and at worst.

A[s, j] is the accuracy on task j at look s, of S looks: every ``run.eval_every`` steps and after each task;
t_j is the look after task j. All are NaN for a run without looks inside its tasks, or without one after each;
the prequential accuracy needs only ``run.eval_every``. Tasks without test images are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np

from clbench.evaluate import metric
from clbench.evaluate.looks import Anytime
from clbench.evaluate.means import mean
from clbench.evaluate.results import Results

WATCHED = "there were no looks inside tasks (run.eval_every=0), or none after each task"
DE_LANGE = "De Lange et al., ICLR 2023, arXiv 2205.13452"
OLD_TASKS = "macro over the tasks before the last"
NAN = float("nan")

OfLooks = Callable[[Anytime], float]


def look_metric(
    name: str,
    *,
    formula: str,
    averaging: str,
    reference: str,
    unknown: str = WATCHED,
    higher_is_better: bool = True,
    unit: str = "",
) -> Callable[[OfLooks], OfLooks]:
    """Return a decorator that registers a function of the looks as a metric, NaN where there were none."""

    def add(function: OfLooks) -> OfLooks:
        @wraps(function)
        def of_results(results: Results) -> float:
            looks = results.anytime
            return function(looks) if looks and looks.is_watched else NAN

        metric(
            name,
            formula=formula,
            averaging=averaging,
            reference=reference,
            unknown=unknown,
            higher_is_better=higher_is_better,
            unit=unit,
        )(of_results)
        return function

    return add


@look_metric(
    "anytime-accuracy",
    formula="AAA = 1/S Σ_s mean_j A[s,j] over the tasks j seen at look s"
    " (elsewhere AAA is average-incremental-accuracy)",
    averaging="macro over the tasks seen, then the mean over looks",
    reference="Caccia et al., ICLR 2022, arXiv 2104.05025, eq. 4",
)
def anytime_accuracy(looks: Anytime) -> float:
    """Average the accuracy on the tasks seen so far over all looks; exact after tasks."""
    return float(np.nanmean(looks.accuracy, axis=1).mean())


@look_metric(
    "anytime-auc",
    formula="A_AUC = Σ_s f_s Δn_s / Σ_s Δn_s, f_s: accuracy at look s, Δn_s: training images since look s-1",
    averaging="micro over the test images of the classes seen, then the mean over training images",
    reference="Koh et al. (i-Blurry), ICLR 2022, arXiv 2110.10031",
)
def area_under_curve(looks: Anytime) -> float:
    """Average the accuracy over training images; where a subset was looked at, it stands for its task."""
    whole = np.maximum(looks.num.max(axis=0), 1)
    weight = looks.num / whole * looks.num_test  # test images of the classes met
    right = np.nansum(weight * looks.accuracy, axis=1)
    since = np.diff(looks.images, prepend=0)
    return float((right / weight.sum(axis=1)) @ since / since.sum())


@look_metric(
    "min-accuracy",
    formula="min-ACC = 1/(T-1) Σ_{j<T} min_{s>t_j} A[s,j]",
    averaging=OLD_TASKS,
    reference=DE_LANGE,
    unknown=f"there is one task, or {WATCHED}",
)
def min_accuracy(looks: Anytime) -> float:
    """Average the lowest accuracy that a task ever has after it was learnt; NaN for one task."""
    return mean([accuracy[1:].min() for _, accuracy in looks.old_tasks()])


@look_metric(
    "worst-case-accuracy",
    formula="WC-ACC = 1/T A[S,T] + (1 - 1/T) min-ACC",
    averaging="macro: tasks weigh the same",
    reference=DE_LANGE,
)
def worst_case_accuracy(looks: Anytime) -> float:
    """Weigh the last task's accuracy with the lowest of the tasks before."""
    num_tasks, last = len(looks.tested), looks.tested[-1]
    newest = float(looks.accuracy[-1, last])
    if num_tasks == 1:
        return newest
    return newest / num_tasks + (1 - 1 / num_tasks) * min_accuracy(looks)


@metric(
    "prequential-accuracy",
    formula="hits / training images, each predicted before the step that first learns it",
    averaging="micro: training images weigh the same",
    reference="Cai et al., ICCV 2021, arXiv 2108.09020",
    unknown="no training batch was predicted before it was learnt (run.eval_every=0)",
)
def prequential_accuracy(results: Results) -> float:
    """Give the share of training images that were right when they arrived (test, then train).

    With ``run.step_cost`` above 1 it is the accuracy in real time (Ghunaim et al., CVPR 2023,
    arXiv 2302.01047): all images are predicted as they come, but only every so many batches are learnt.
    """
    looks = results.anytime
    tried = int(looks.tried.sum()) if looks else 0
    return float(looks.hits.sum() / tried) if looks and tried else NAN
