"""Hold parameters by what each contributed to the fall of the loss: synaptic intelligence (SI).

F. Zenke, B. Poole, S. Ganguli, "Continual Learning Through Synaptic Intelligence", ICML 2017, arXiv
1703.04200. With g the gradient of the cross-entropy and d the change of a parameter over a task:

    path_i = sum over steps of -g_i * step_i,    Omega_i += path_i / (d_i^2 + damping)        (Eq. 3, 5)
    CE + strength * sum_i Omega_i (w_i - w*_i)^2                                              (Eq. 4)

w* are the parameters at the end of the last task.

Differs from the paper: an importance that would be negative counts as 0 (our choice), so that no parameter is
pushed away from where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from clbench.data.inputs import Batch, Feed
from clbench.learning.importance import Anchored, flat
from clbench.strategies import Task, register


@register("si", petl="adapter")
@dataclass
class SI(Anchored):
    """Cross-entropy over all classes seen so far, and the pull towards the last task's parameters."""

    keeps_path: ClassVar[bool] = True

    strength: Annotated[float, Field(ge=0)] = 1.0  # c
    damping: Annotated[float, Field(gt=0)] = 0.001  # xi

    @torch.no_grad()
    def before_update(self, batch: Batch) -> None:
        """Note the parameters, and the gradient without that of the pull."""
        learning, held = self.learning(), self.held
        self.before = flat(learning)
        gradient = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in learning])
        self.gradient = gradient - 2 * self.strength * held.importance * (self.before - held.anchor)

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        """Add what the step contributed."""
        self.held.path -= self.gradient * (flat(self.learning()) - self.before)

    @torch.no_grad()
    def end_task(self, task: Task, images: Feed) -> None:
        """Add the task's importances, and move the anchor."""
        parameters, held = flat(self.learning()), self.held
        change = parameters - held.anchor
        held.importance += (held.path / (change.square() + self.damping)).clamp(min=0)
        held.path.zero_()
        held.anchor.copy_(parameters)
