"""Take out of the cross-entropy the part that asks for an image's task.

-log p(y) = -log p(task) - log p(y | task), where p(task) is the sum of the softmax over the task's classes.

Z. Li, S. Jie, Z. Deng, "Detachedly Learn a Classifier for Class-Incremental Learning", 2023,
arXiv 2302.11730.

A set of classes (a task, or all earlier tasks) is a mask: (C,) for the whole batch, or (B, C) with one for
each image. B batch, C classes seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.learning.losses.precision import full_precision


def task_term(logits: Tensor, members: Tensor) -> Tensor:
    """Return the mean of -log p(one of the members)."""
    logits = full_precision(logits)
    among = logits.masked_fill(~members, -torch.inf)
    return (logits.logsumexp(dim=1) - among.logsumexp(dim=1)).mean()
