"""State how much evidence a classifier has for each class, and fuse several classifiers' statements.

M. Sensoy, L. Kaplan, M. Kandemir, "Evidential Deep Learning to Quantify Classification Uncertainty", NeurIPS
2018, arXiv 1806.01768; Z. Han, C. Zhang, H. Fu, J. T. Zhou, "Trusted Multi-View Classification", ICLR 2021,
arXiv 2102.02051; as used by Y. Qi, L. Lin, J. Wang, B. Zhang, J. Zhang, "Multi-modal Evidential Fusion
Network for Trusted PET/CT Tumor Segmentation", 2024, arXiv 2406.18327. The modes other than Dempster's rule
are our choice.

Evidence e >= 0 makes a Dirichlet distribution with alpha = e + 1 and strength S = sum(alpha): belief
b = e / S, uncertainty u = K / S, probability p = alpha / S, and sum(b) + u = 1.

Shapes: V experts, B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.learning.losses.precision import full_precision

Mode = Literal["dempster", "discounted", "cumulative", "average", "uncertainty_mix"]


@dataclass(frozen=True)
class Opinion:
    """What one or several experts say of a batch."""

    probability: Tensor  # (B, K)
    uncertainty: Tensor  # (B,) in (0, 1]; depends on K and falls with every expert: read it with the conflict
    conflict: Tensor  # (B,) in [0, 1], mass that the experts give to different classes; one expert: 0


def evidence(logits: Tensor, scale: float = 1.0) -> Tensor:
    """Return the evidence scale * softplus(logits), in float32 at least."""
    return scale * F.softplus(full_precision(logits))


def belief(evidence_BK: Tensor) -> Tensor:
    """Return the belief in each class (B, K)."""
    return evidence_BK / (evidence_BK + 1).sum(dim=-1, keepdim=True)


def uncertainty(evidence_BK: Tensor) -> Tensor:
    """Return what no belief is committed to (B,)."""
    return 1 / (1 + evidence_BK.mean(dim=-1))


def probability(evidence_BK: Tensor) -> Tensor:
    """Return the mean of the Dirichlet distribution (B, K)."""
    return (evidence_BK + 1) / (evidence_BK + 1).sum(dim=-1, keepdim=True)


def fuse(experts: Sequence[Tensor], mode: Mode = "dempster", reliability: Sequence[float] = ()) -> Opinion:
    """Return the experts' joint opinion, in float64.

    Args:
        experts: The evidence (B, K) of each; an expert with fewer columns does not know the last classes and
            has no evidence for them.
        mode: "dempster": Dempster's rule. "discounted": the same after each expert's belief is multiplied by
            its reliability. "cumulative": the sum of the evidence. "average": its mean. "uncertainty_mix":
            probabilities weighted by 1 - u; the uncertainty is then the mean of the experts'.
        reliability: Of each expert, in [0, 1]; needed by "discounted".
    """
    num_classes = max(each.shape[1] for each in experts)
    stack_VBK = torch.stack([F.pad(each.double(), (0, num_classes - each.shape[1])) for each in experts])
    if mode == "discounted":
        if len(reliability) != len(experts):
            raise ValueError(f"{len(experts)} experts need as many reliabilities, not {len(reliability)}")
        pairs = zip(stack_VBK, reliability, strict=True)
        stack_VBK = torch.stack([discount(each, rate) for each, rate in pairs])
    dempster_BK = dempster(stack_VBK)
    conflict = _conflict(stack_VBK, dempster_BK)
    if mode == "uncertainty_mix":
        return _uncertainty_mix(stack_VBK, conflict)
    fused_BK = {"cumulative": stack_VBK.sum(dim=0), "average": stack_VBK.mean(dim=0)}.get(mode, dempster_BK)
    return Opinion(probability(fused_BK), uncertainty(fused_BK), conflict)


def dempster(stack_VBK: Tensor) -> Tensor:
    """Return the evidence after Dempster's rule: 1 + e / K is the product of the experts' 1 + e / K."""
    num_classes = stack_VBK.shape[2]
    return num_classes * (stack_VBK / num_classes).log1p().sum(dim=0).expm1()


def discount(evidence_BK: Tensor, reliability: float) -> Tensor:
    """Return the evidence that multiplies every belief by the reliability, in [0, 1]."""
    return reliability * evidence_BK / (1 + (1 - reliability) * evidence_BK.mean(dim=1, keepdim=True))


def dirichlet_loss(evidence_BK: Tensor, labels: Tensor, kl_weight: float | Tensor) -> Tensor:
    """Return the mean of the expected cross-entropy plus ``kl_weight`` times the misleading evidence's KL.

    With epochs the weight is annealed as min(1, epoch / 50); in a single pass 0.1 is a constant that works
    without an epoch to count (our choice).
    """
    misleading = divergence_of_misleading(evidence_BK, labels)
    return (expected_cross_entropy(evidence_BK, labels) + kl_weight * misleading).mean()


def expected_cross_entropy(evidence_BK: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy under the Dirichlet: psi(S) - psi(alpha_label), in float64 (B,)."""
    alpha_BK = evidence_BK.double() + 1
    own = alpha_BK.gather(1, labels[:, None]).squeeze(1)
    return alpha_BK.sum(dim=1).digamma() - own.digamma()


def divergence_of_misleading(evidence_BK: Tensor, labels: Tensor) -> Tensor:
    """Return KL(Dir(alpha) || Dir(1)) without the evidence for the label, in float64 (B,)."""
    alpha_BK = evidence_BK.double().scatter(1, labels[:, None], 0) + 1
    strength_B1 = alpha_BK.sum(dim=1, keepdim=True)
    num_classes = alpha_BK.new_tensor(alpha_BK.shape[1])
    normaliser = strength_B1.squeeze(1).lgamma() - alpha_BK.lgamma().sum(dim=1) - num_classes.lgamma()
    return normaliser + ((alpha_BK - 1) * (alpha_BK.digamma() - strength_B1.digamma())).sum(dim=1)


def _conflict(stack_VBK: Tensor, dempster_BK: Tensor) -> Tensor:
    """Return C: the mass left after Dempster's rule is 1 - C = (product of the experts' u) / (fused u)."""
    log_rest = dempster_BK.mean(dim=1).log1p() - stack_VBK.mean(dim=2).log1p().sum(dim=0)
    return -log_rest.clamp(max=0).expm1()


def _uncertainty_mix(stack_VBK: Tensor, conflict: Tensor) -> Opinion:
    uncertainty_VB = uncertainty(stack_VBK)
    total_B = (1 - uncertainty_VB).sum(dim=0)
    share_VB = (1 - uncertainty_VB) / total_B.clamp(min=torch.finfo(total_B.dtype).tiny)
    share_VB = torch.where(total_B > 0, share_VB, 1 / len(stack_VBK))
    mixed_BK = (share_VB[..., None] * probability(stack_VBK)).sum(dim=0)
    return Opinion(mixed_BK, uncertainty_VB.mean(dim=0), conflict)
