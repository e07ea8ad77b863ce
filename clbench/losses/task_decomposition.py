"""Split the cross-entropy into "which task" and "which class of that task".

-log p(y) = -log p(task) - log p(y | task), where p(task) is the sum of the softmax over the task's classes.

Z. Li, S. Jie, Z. Deng, "Detachedly Learn a Classifier for Class-Incremental Learning", 2023,
arXiv 2302.11730.

A set of classes (a task, or all earlier tasks) is a mask: (C,) for the whole batch, or (B, C) with one for
each image, as ``same_task`` gives. B batch, C classes seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.losses.precision import full_precision


def task_term(logits: Tensor, members: Tensor) -> Tensor:
    """Return the mean of -log p(one of the members)."""
    logits = full_precision(logits)
    return (logits.logsumexp(dim=1) - _within(logits, members).logsumexp(dim=1)).mean()


def within_task_cross_entropy(logits: Tensor, labels: Tensor, members: Tensor) -> Tensor:
    """Return the mean of -log p(label | one of the members); each label must be a member."""
    logits = full_precision(logits)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return (_within(logits, members).logsumexp(dim=1) - own).mean()


def same_task(labels: Tensor, task_of_class: Tensor) -> Tensor:
    """Return the mask (B, C) of the classes that are of the same task as each label."""
    return task_of_class[labels][:, None] == task_of_class


def _within(logits: Tensor, members: Tensor) -> Tensor:
    return logits.masked_fill(~members, -torch.inf)
