"""Hold converged tasks near the logits that their classes had a while ago (Quality Retaining).

H. Zhong, J. Chen, Y. Zhang, D. Huang, Y. Wang, "Transforming Vision Transformer: Towards Efficient Multi-Task
Asynchronous Learning", NeurIPS 2024, arXiv 2501.06884, and its released code where the two differ.

It holds only the classes that are in the batch: old ones where they are replayed, or all of them in joint
training.

Differs from the paper:
- Classes and tasks may arrive one after another (our choice): the bank grows, and a remembered vector counts
  only for the classes that there were when it was written.
- What has not been written yet is skipped (our choice); ``skip_empty=False`` takes it for logits of 0, as the
  released code does.

Shapes: B batch, J remembered vectors of a class, C classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.learning.losses.distillation import softened_divergence
from clbench.learning.losses.precision import full_precision

FIRST_TASK_LOSS = 10.0  # so that a new task weighs little
TASK_LOSS_DECAY = 0.95


class QualityRetaining(nn.Module):
    """The bank of remembered logits and of each task's mean loss; ``loss`` reads it, ``update`` writes it."""

    bank_CJC: Tensor
    width_CJ: Tensor  # classes that there were when a vector was written, 0: not written yet
    task_loss: Tensor
    task_of_class: Tensor

    def __init__(
        self,
        form: Literal["two_sample", "ema"] = "two_sample",
        *,
        temperature: float = 2.0,
        decay: float = 0.5,
        skip_empty: bool = True,
    ) -> None:
        """Start without classes.

        Args:
            form: Remember the last two vectors of a class, or one moving average, which then counts twice.
            temperature: Softens both sides of the divergence, > 0.
            decay: What the moving average keeps at each write, in [0, 1).
            skip_empty: Whether what has not been written is left out instead of taken for 0.
        """
        super().__init__()
        self.form = form
        self.temperature = temperature
        self.decay = decay
        self.skip_empty = skip_empty
        num_vectors = 2 if form == "two_sample" else 1
        self.register_buffer("bank_CJC", torch.zeros(0, num_vectors, 0))
        self.register_buffer("width_CJ", torch.zeros(0, num_vectors, dtype=torch.int64))
        self.register_buffer("task_loss", torch.zeros(0))
        # told anew, class by class, when a run is resumed
        self.register_buffer("task_of_class", torch.zeros(0, dtype=torch.int64), persistent=False)

    def grow(self, new_classes: int, *, task: int) -> None:
        """Make room for so many further classes, all of one task (0-based); what is remembered stays."""
        tasks = self.task_of_class.new_full((new_classes,), task)
        self.task_of_class = torch.cat([self.task_of_class, tasks])
        self.bank_CJC = F.pad(self.bank_CJC, (0, new_classes, 0, 0, 0, new_classes))
        self.width_CJ = F.pad(self.width_CJ, (0, 0, 0, new_classes))
        self.task_loss = F.pad(self.task_loss, (0, task + 1 - len(self.task_loss)), value=FIRST_TASK_LOSS)

    def forget(self) -> None:
        """Start again with the classes and tasks that there are."""
        self.bank_CJC.zero_()
        self.width_CJ.zero_()
        self.task_loss.fill_(FIRST_TASK_LOSS)

    def loss(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        """Return the mean of each image's divergence from the bank over its task's loss; write nothing."""
        remembered_BJC, is_known_BJC = self.bank_CJC[labels], self._known(labels)
        current_BJC = full_precision(logits_BC)[:, None].expand_as(remembered_BJC)
        nothing = torch.finfo(current_BJC.dtype).min  # and not -inf, of which a softmax would be NaN
        divergence_BJ = softened_divergence(
            current_BJC.masked_fill(~is_known_BJC, nothing),
            remembered_BJC.to(current_BJC).masked_fill(~is_known_BJC, nothing),
            temperature=self.temperature,
        )
        divergence_BJ = divergence_BJ.masked_fill(~is_known_BJC.any(dim=2), 0) * self.temperature**2
        task_loss = self._next_task_loss(logits_BC, labels)[self.task_of_class[labels]]
        return (2 * divergence_BJ.mean(dim=1) / task_loss).mean()

    @torch.no_grad()
    def update(self, logits_BC: Tensor, labels: Tensor) -> None:
        """Remember a batch after its loss was formed; of a class that occurs twice, the last image counts."""
        self.task_loss = self._next_task_loss(logits_BC, labels)
        last = torch.full((len(self.bank_CJC),), -1, device=labels.device)
        order = torch.arange(len(labels), device=labels.device)
        last.scatter_reduce_(0, labels, order, "amax")
        classes = (last >= 0).nonzero().flatten()
        new = logits_BC[last[classes]].to(self.bank_CJC)
        if self.form == "ema":
            old = self.bank_CJC[classes, 0]
            new = torch.where(self._known(classes)[:, 0], torch.lerp(new, old, self.decay), new)
        else:
            self.bank_CJC[classes, 0] = self.bank_CJC[classes, 1]
            self.width_CJ[classes, 0] = self.width_CJ[classes, 1]
        self.bank_CJC[classes, -1] = new
        self.width_CJ[classes, -1] = logits_BC.shape[1]

    def _known(self, labels: Tensor) -> Tensor:
        """Return which entries of these classes' vectors are to be used (B, J, C)."""
        columns = torch.arange(len(self.bank_CJC), device=labels.device)
        return (columns < self.width_CJ[labels][..., None]) | (not self.skip_empty)

    @torch.no_grad()
    def _next_task_loss(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        """Return each task's moving average of the cross-entropy, moved where the batch has images of it."""
        losses = F.cross_entropy(full_precision(logits_BC), labels, reduction="none").to(self.task_loss)
        tasks = self.task_of_class[labels]
        count = torch.zeros_like(self.task_loss).index_add_(0, tasks, torch.ones_like(losses))
        mean = torch.zeros_like(self.task_loss).index_add_(0, tasks, losses) / count.clamp(min=1)
        return torch.where(count > 0, torch.lerp(mean, self.task_loss, TASK_LOSS_DECAY), self.task_loss)
