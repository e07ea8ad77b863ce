"""Let new images compete among their own classes only, so that they do not push old ones away: ER-ACE.

L. Caccia, R. Aljundi, N. Asadi, T. Tuytelaars, J. Pineau, E. Belilovsky, "New Insights on Reducing Abrupt
Representation Change in Online Continual Learning", ICLR 2022, arXiv 2104.05025. Asymmetric cross-entropy:

    CE(new images, classes of the new images) + CE(replayed images, all classes seen)

Differs from the paper: new and replayed images pass the network as one batch; "all classes seen" are those of
the tasks begun, whether or not an image of each was met.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.data.inputs import Batch
from clbench.learning.replay import Replay
from clbench.strategies import register


@register("er-ace", petl="adapter")
@dataclass
class ERACE(Replay):
    """Two cross-entropies of equal weight, the one of new images over fewer classes."""

    def replay_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the sum of the two means."""
        end = batch.num_new
        is_other = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        is_other[batch.labels[:end]] = False
        among_new = logits[:end].masked_fill(is_other, -torch.inf)
        loss = F.cross_entropy(among_new, batch.labels[:end])
        if len(batch) > end:
            loss = loss + F.cross_entropy(logits[end:], batch.labels[end:])
        return loss
