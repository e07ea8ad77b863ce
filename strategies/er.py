"""Learn each batch together with as many images from a memory: experience replay (ER).

A. Chaudhry, M. Rohrbach, M. Elhoseiny, T. Ajanthan, P. K. Dokania, P. H. S. Torr, M. Ranzato, "On Tiny
Episodic Memories in Continual Learning", 2019, arXiv 1902.10486, with its reservoir: at any moment each image
met so far is in the memory with the same probability, whatever the tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from clbench.data.inputs import Batch
from clbench.learning.replay import Replay
from clbench.strategies import register


@register("er", petl="adapter")
@dataclass
class ER(Replay):
    """Cross-entropy over all classes seen so far, on new and replayed images alike."""

    def replay_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean over all images."""
        return F.cross_entropy(logits, batch.labels)
