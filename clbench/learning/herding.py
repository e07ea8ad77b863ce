"""Rank the samples of a class so that each first part of the ranking has a mean near the class mean.

M. Welling, "Herding Dynamical Weights to Learn", ICML 2009; for exemplars: S.-A. Rebuffi, A. Kolesnikov,
G. Sperl, C. H. Lampert, "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017,
arXiv 1611.07725.

Shapes: N samples, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.learning.losses.precision import full_precision


@torch.no_grad()
def herding(feature_ND: Tensor, count: int) -> Tensor:
    """Return the indices of the first ``count`` samples of the ranking (all if there are fewer), best first.

    The k-th pick minimises ||mean - (picked + v) / k||. With features taken from their mean that is
    ||picked + v||, whose part that depends on v is ||v||^2 + 2 v . picked: one product for all candidates.
    """
    feature_ND = full_precision(feature_ND)
    centred_ND = feature_ND - feature_ND.mean(dim=0)
    squared_norm_N = centred_ND.square().sum(dim=1)
    picked_D = torch.zeros_like(centred_ND[0])
    order = torch.empty(min(count, len(feature_ND)), dtype=torch.int64, device=feature_ND.device)
    for rank in range(len(order)):
        best = (squared_norm_N + 2 * centred_ND @ picked_D).argmin()
        order[rank] = best
        picked_D += centred_ND[best]
        squared_norm_N[best] = torch.inf  # no sample twice
    return order
