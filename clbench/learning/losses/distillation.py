"""Keep the softened probabilities of a network near those of an earlier one.

G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531; for
continual learning Z. Li, D. Hoiem, "Learning without Forgetting", ECCV 2016, arXiv 1606.09282.
"""

from __future__ import annotations

from torch import Tensor

from clbench.learning.losses.precision import full_precision


def distillation(logits: Tensor, targets: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Return the mean over the batch of ``softened_divergence``, without the factor temperature^2, as in LwF.

    LwF's cross-entropy differs from it by the entropy of the targets, which no parameter changes.
    """
    return softened_divergence(logits, targets, temperature=temperature).mean()


def softened_divergence(logits: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """Return KL(softmax(targets / temperature) || softmax(logits / temperature)) over the last dimension.

    The targets, logits too, have no gradient.
    """
    target = (full_precision(targets.detach()) / temperature).log_softmax(dim=-1)
    current = (full_precision(logits) / temperature).log_softmax(dim=-1)
    return (target.exp() * (target - current)).sum(dim=-1)
