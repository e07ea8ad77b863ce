"""Replay images with the logits that they had when they were met: Dark Experience Replay (DER).

P. Buzzega, M. Boschini, A. Porrello, D. Abati, S. Calderara, "Dark Experience for General Continual Learning:
a Strong, Simple Baseline", NeurIPS 2020, arXiv 2004.07211. Not the Dynamically Expandable Representation that
has the same three letters. Eq. 6:

    CE(new images) + alpha * |logits of replayed images - their logits in the memory|^2

The square is the mean over images and classes, as in the released code. An image is offered to the memory
each time that it is met, so the logits come from the whole course of learning.

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

from clbench.data.inputs import Batch
from clbench.learning.losses.dark import dark_experience
from clbench.learning.replay import Replay
from clbench.strategies import register


@register("der", petl="adapter")
@dataclass
class DER(Replay):
    """Cross-entropy on new images, logits held on replayed ones."""

    keeps_logits: ClassVar[bool] = True

    alpha: Annotated[float, Field(ge=0)] = 1.0  # weight of the logits' distance

    def replay_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the two terms."""
        return dark_experience(logits, batch, self.alpha)
