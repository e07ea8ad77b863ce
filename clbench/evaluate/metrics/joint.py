"""Compare with joint training on the same stream, a second run: what continual learning costs.

J is the accuracy matrix of the joint run; its row k is of a model trained on all tasks up to k. Joint
training that waits for the last task (``joint``'s default) has only the last row.
"""

from __future__ import annotations

import numpy as np

from clbench.evaluate import metric
from clbench.evaluate.metrics import matrix
from clbench.evaluate.metrics.matrix import GEM
from clbench.evaluate.results import Results

CHAUDHRY = "Chaudhry et al., ECCV 2018, arXiv 1801.10112"
NO_JOINT = "no run of joint training on the same stream and backbone was given"


@metric(
    "intransigence",
    formula="1/T Σ_k (J[k,k] - R[k,k])",
    averaging="macro: tasks weigh the same",
    reference=CHAUDHRY,
    unknown=f"{NO_JOINT}, or it did not train after every task (strategy.when=every)",
    higher_is_better=False,
    against="joint",
)
def intransigence(results: Results, joint: Results) -> float:
    """Average by how much worse a task is learnt than jointly with all before it; negative if better."""
    gap = joint.accuracy.diagonal() - results.accuracy.diagonal()
    return float(np.mean(gap[results.is_tested]))


@metric(
    "intransigence-last",
    formula="I_T = J[T,T] - R[T,T]",
    averaging="the last task alone",
    reference=CHAUDHRY,
    unknown=NO_JOINT,
    higher_is_better=False,
    against="joint",
)
def intransigence_of_the_last(results: Results, joint: Results) -> float:
    """Give by how much worse the last task is learnt than jointly with all others."""
    return float(joint.accuracy[-1, -1] - results.accuracy[-1, -1])


@metric(
    "gap-to-joint",
    formula="A_T of the joint run - A_T",
    averaging="macro: tasks weigh the same",
    reference=GEM,
    unknown=NO_JOINT,
    higher_is_better=False,
    against="joint",
)
def gap_to_joint(results: Results, joint: Results) -> float:
    """Give how far the accuracy at the end is below that of joint training."""
    return matrix.accuracy(joint) - matrix.accuracy(results)


@metric(
    "omega",
    formula="Ω = A_T / A_T of the joint run",
    averaging="macro: tasks weigh the same",
    reference="after Kemker et al., AAAI 2018, arXiv 1708.02072",
    unknown=f"{NO_JOINT}, or it is never right",
    against="joint",
)
def omega(results: Results, joint: Results) -> float:
    """Give the accuracy at the end as a share of that of joint training."""
    whole = matrix.accuracy(joint)
    return matrix.accuracy(results) / whole if whole else float("nan")
