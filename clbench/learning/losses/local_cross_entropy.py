"""Compare the classes of one task among each other only: the masked, or local, cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def local_cross_entropy(logits: Tensor, labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Return the mean cross-entropy of logits (B, C) among ``classes``, to which all labels belong."""
    others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    others[list(classes)] = False
    return F.cross_entropy(logits.masked_fill(others, -math.inf), labels)
