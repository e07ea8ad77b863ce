"""Hold logits where they were: the loss of Dark Experience Replay.

P. Buzzega, M. Boschini, A. Porrello, D. Abati, S. Calderara, "Dark Experience for General Continual Learning:
a Strong, Simple Baseline", NeurIPS 2020, arXiv 2004.07211.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from clbench.data.inputs import Batch
from clbench.learning.losses.precision import full_precision


def dark_experience(logits: Tensor, batch: Batch, alpha: float) -> Tensor:
    """Return Eq. 6: the new images' cross-entropy, plus ``alpha`` times the first draw's distance."""
    end, dark = batch.num_new, batch.replayed[0]
    loss = F.cross_entropy(logits[:end], batch.labels[:end])
    held = logits[end : end + len(dark.labels)]
    return loss + alpha * dark_distance(held, dark.extras["logits"])


def dark_distance(logits: Tensor, stored: Tensor) -> Tensor:
    """Return the mean squared difference of two (B, C) tensors, 0 for no image."""
    difference = full_precision(logits) - stored
    return difference.square().sum() / max(difference.numel(), 1)
