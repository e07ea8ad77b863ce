"""Follow the accuracy on each task from look to look: how deep it drops, and how fast it comes back.

A[s, j] and t_j are as in ``clbench.evaluate.metrics.online``, here always on the fixed subset of test images.
Windows are counted in looks, as in the code of M. De Lange et al. (ICLR 2023, arXiv 2205.13452), who look
after every step: with another ``run.eval_every`` it is another window. In a stream without boundaries the
change inside a task is also that of the classes met.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clbench.evaluate.looks import Anytime
from clbench.evaluate.means import mean
from clbench.evaluate.metrics.online import DE_LANGE, NAN, OLD_TASKS, WATCHED, look_metric

RECOVERED = 0.95  # share of the accuracy before a drop that counts as recovered (our choice)


def _windowed(width: int) -> None:
    """Register the metrics of windows of so many looks."""

    @look_metric(
        f"windowed-forgetting-{width}",
        formula=f"WF^{width} = 1/T Σ_j max_{{m<n<m+{width}}} (A[m,j] - A[n,j])",
        averaging="macro: tasks weigh the same",
        reference=DE_LANGE,
        higher_is_better=False,
    )
    def forgetting(looks: Anytime) -> float:
        """Average over the tasks the largest drop inside a window of looks."""
        return mean([_largest_gain(-series, width) for series in _tasks(looks)])

    @look_metric(
        f"windowed-plasticity-{width}",
        formula=f"WP^{width} = 1/T Σ_j max_{{m<n<m+{width}}} (A[n,j] - A[m,j])",
        averaging="macro: tasks weigh the same",
        reference=DE_LANGE,
    )
    def plasticity(looks: Anytime) -> float:
        """Average over the tasks the largest gain inside a window of looks."""
        return mean([_largest_gain(series, width) for series in _tasks(looks)])


for _width in (10, 100):
    _windowed(_width)


@look_metric(
    "stability-gap",
    formula="1/(T-1) Σ_{j<T} (A[t_j,j] - min_{s>t_j} A[s,j])",
    averaging=OLD_TASKS,
    reference=DE_LANGE,
    unknown=f"there is one task, or {WATCHED}",
    higher_is_better=False,
)
def stability_gap(looks: Anytime) -> float:
    """Average the drop from just after a task was learnt to its lowest later accuracy; NaN for one task."""
    return mean([accuracy[0] - accuracy[1:].min() for _, accuracy in looks.old_tasks()])


@look_metric(
    "recovery-steps",
    formula="mean of the steps from the look before A[s,j] < 0.95 A[t_j,j] to the next one where it is not",
    averaging="macro over those tasks before the last that recovered; 0 for a task that never dropped",
    reference=f"after {DE_LANGE}; the threshold is our choice",
    unknown=f"no task recovered, there is one task, or {WATCHED}",
    higher_is_better=False,
    unit="steps",
)
def recovery_steps(looks: Anytime) -> float:
    """Average the steps that the first drop of a task lasts; see ``recovered`` for how many tasks count."""
    return mean([steps for steps in _recoveries(looks) if not np.isnan(steps)])


@look_metric(
    "recovered",
    formula="share of the tasks j < T that were back at 0.95 A[t_j,j] after their first drop below it",
    averaging=OLD_TASKS,
    reference=f"after {DE_LANGE}; the threshold is our choice",
    unknown=f"there is one task, or {WATCHED}",
)
def recovered(looks: Anytime) -> float:
    """Give the share of tasks that recovered from their first drop, or never dropped; NaN for one task."""
    return mean([float(not np.isnan(steps)) for steps in _recoveries(looks)])


def _tasks(looks: Anytime) -> list[NDArray[np.float64]]:
    """Return the accuracies on each task, from the first look at it."""
    series = [looks.subset[:, task] for task in looks.tested]
    return [each[~np.isnan(each)] for each in series]


def _largest_gain(series: NDArray[np.float64], width: int) -> float:
    lags = range(1, min(width, len(series)))
    return max((float((series[lag:] - series[:-lag]).max()) for lag in lags), default=NAN)


def _recoveries(looks: Anytime) -> list[float]:
    return [_recovery(steps, accuracy) for steps, accuracy in looks.old_tasks()]


def _recovery(steps: NDArray[np.int64], accuracy: NDArray[np.float64]) -> float:
    """Return the steps that the first drop after look 0 lasts: 0 without one, NaN if it does not end."""
    is_low = accuracy < RECOVERED * accuracy[0] - 1e-9  # a product of floats may be a bit above the count
    if not is_low.any():
        return 0.0
    first = int(is_low.argmax())
    back = np.flatnonzero(~is_low[first:])
    return float(steps[first + back[0]] - steps[first - 1]) if back.size else NAN
