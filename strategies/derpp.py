"""Replay images with the logits that they had and, in a second draw, with their labels: DER++.

P. Buzzega, M. Boschini, A. Porrello, D. Abati, S. Calderara, "Dark Experience for General Continual Learning:
a Strong, Simple Baseline", NeurIPS 2020, arXiv 2004.07211. Dark Experience Replay as in ``der``, and a
cross-entropy on images replayed besides:

    CE(new images) + alpha * |logits of one draw - their logits in the memory|^2 + beta * CE(another draw)

The square is the mean over images and classes, as in the released code. An image is offered to the memory
each time that it is met.

Differs from the paper:
- The head grows: of a class that came later an image counts as having its lowest logit (our choice). The
  paper's head has all classes from the start, and learns that they are not meant.
- New and replayed images pass the network as one batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from clbench.data.inputs import Batch
from clbench.learning.losses.dark import dark_experience
from clbench.learning.replay import Replay
from clbench.strategies import register


@register("derpp", petl="adapter")
@dataclass
class DERpp(Replay):
    """Cross-entropy on new images, logits held on one draw, labels learnt from another."""

    keeps_logits: ClassVar[bool] = True
    draws: ClassVar[tuple[str, ...]] = ("replay logits", "replay labels")

    alpha: Annotated[float, Field(ge=0)] = 0.1  # weight of the logits' distance
    beta: Annotated[float, Field(ge=0)] = 0.5  # weight of the replayed labels

    def replay_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the three terms."""
        loss = dark_experience(logits, batch, self.alpha)
        start = batch.num_new + len(batch.replayed[0].labels)  # of the second draw
        if len(batch) > start:
            loss = loss + self.beta * F.cross_entropy(logits[start:], batch.labels[start:])
        return loss
