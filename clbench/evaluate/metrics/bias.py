"""Ask whether the newest classes are favoured over the old ones, in the evaluation after the last task.

New are the classes that the last task brought, old all others. Where scores are probabilities, the logarithm
of a quotient of two is the difference of two logits; the gap is known of no other scores.
"""

from __future__ import annotations

import numpy as np

from clbench.evaluate import metric
from clbench.evaluate.metrics.calibration import LEAST, NO_SHARES, OLDER_RECORD
from clbench.evaluate.results import Results

WU = "after Wu et al. (BiC), CVPR 2019, arXiv 1905.13260"
NAN = float("nan")
ONE_SIDED = "there is one task, or the last brought no classes"


@metric(
    "bias-to-new",
    formula="1/2 Σ_{S in old, new} mean_{x in S} (ln max_{c new} p_c(x) - ln max_{c old} p_c(x))",
    averaging="micro over the images of old and of new classes; the two weigh the same (our choice)",
    reference=f"{WU}: mean gap of the largest logits",
    unknown=f"{NO_SHARES}, {ONE_SIDED}, the task is told with each image, or {OLDER_RECORD}",
    higher_is_better=False,
    unit="nats",
)
def bias_to_new(results: Results) -> float:
    """Average by how much the best new class's logit is above the best old one's; 0: no side is favoured."""
    if "new_score" not in results.last:
        return NAN
    new, old = (
        np.maximum(results.last[name].astype(np.float64), LEAST) for name in ("new_score", "old_score")
    )
    return _balanced(results, np.log(new) - np.log(old))


@metric(
    "old-as-new",
    formula="P(predicted class is new | image of an old class)",
    averaging="micro: test images of old classes weigh the same",
    reference=WU,
    unknown=ONE_SIDED,
    higher_is_better=False,
)
def old_as_new(results: Results) -> float:
    """Give the share of old images that are taken for one of the last task's classes."""
    return _taken(results, of_new=False)


@metric(
    "new-as-old",
    formula="P(predicted class is old | image of a new class)",
    averaging="micro: test images of new classes weigh the same",
    reference=WU,
    unknown=ONE_SIDED,
    higher_is_better=False,
)
def new_as_old(results: Results) -> float:
    """Give the share of the last task's images that are taken for an old class."""
    return _taken(results, of_new=True)


def _taken(results: Results, *, of_new: bool) -> float:
    """Return the share of the images of one side that are predicted to be of the other."""
    new = _new_classes(results)
    if new is None:
        return NAN
    is_new, taken_as_new = (np.isin(results.last[name], new) for name in ("label", "prediction"))
    own = is_new == of_new
    return float((taken_as_new[own] != of_new).mean()) if own.any() else NAN


def _balanced(results: Results, gap: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    new = _new_classes(results)
    if new is None:
        return NAN
    is_new = np.isin(results.last["label"], new)
    return float((gap[is_new].mean() + gap[~is_new].mean()) / 2)


def _new_classes(results: Results) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None:
    """Return the classes that were tested with the last task and no earlier one; None without two sides."""
    label, task = results.last.get("label"), results.last.get("task")
    if label is None or task is None or not len(task):
        return None
    new = np.setdiff1d(label[task == results.num_tasks - 1], label[task < results.num_tasks - 1])
    return new if len(new) and len(new) < len(np.unique(label)) else None
