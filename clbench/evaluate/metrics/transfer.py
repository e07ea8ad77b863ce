"""Ask whether earlier tasks help with one that has not been learnt: forward transfer.

It needs the accuracies above the diagonal and those of the untrained learner, b_j. Both mean something only
where the classes of a task can be predicted before it is learnt, as in domain-incremental streams: with
``run.eval_ahead`` they are measured there, and refused elsewhere.
"""

from __future__ import annotations

import numpy as np

from clbench.evaluate import metric
from clbench.evaluate.metrics.matrix import GEM
from clbench.evaluate.results import Results


@metric(
    "fwt",
    formula="FWT = 1/(T-1) Σ_{j≥2} (R[j-1,j] - b_j), b_j: accuracy on task j before any training",
    averaging="macro over the tasks after the first",
    reference=GEM,
    unknown="tasks were not evaluated before they were learnt (run.eval_ahead=false), or there is one task",
)
def forward_transfer(results: Results) -> float:
    """Average what the tasks before it bring a task, above an untrained learner."""
    if results.untrained is None or results.num_tasks == 1:
        return float("nan")
    return float(np.mean(results.accuracy.diagonal(offset=1) - results.untrained[1:]))
