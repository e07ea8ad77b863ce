"""Tell forgetting from a label space that grows: accuracy on the first j tasks, among their classes only.

C[k, j] is the accuracy after task k on the test images of all tasks up to j, where only the classes of those
tasks compete, in formulas with tasks counted from 1.
"""

from __future__ import annotations

import numpy as np

from clbench.evaluate import metric
from clbench.evaluate.metrics.calibration import OLDER_RECORD
from clbench.evaluate.metrics.matrix import best_before_the_last
from clbench.evaluate.results import Results

SOUTIF = "Soutif-Cormerais et al., 2021, arXiv 2106.11930"


@metric(
    "accuracy-cumulative",
    formula="1/T Σ_j C[T,j]",
    averaging="micro over the images of the first j tasks, then the mean over j",
    reference=SOUTIF,
    unknown=OLDER_RECORD,
)
def cumulative_accuracy(results: Results) -> float:
    """Average the accuracy on the first j tasks at the end, as if no other classes had come."""
    if results.cumulative is None:
        return float("nan")
    return float(results.cumulative[-1].mean())


@metric(
    "forgetting-cumulative",
    formula="1/(T-1) Σ_{j<T} (max_{j≤l<T} C[l,j] - C[T,j])",
    averaging="micro over the images of the first j tasks, then the mean over j",
    reference=SOUTIF,
    unknown=f"there is one task, or {OLDER_RECORD}",
    higher_is_better=False,
)
def cumulative_forgetting(results: Results) -> float:
    """Average the drop on the first j tasks that is not owed to classes which came later."""
    if results.cumulative is None or results.num_tasks == 1:
        return float("nan")
    best = best_before_the_last(results.cumulative)
    return float(np.mean((best - results.cumulative[-1])[:-1]))
