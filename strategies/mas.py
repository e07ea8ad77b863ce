"""Hold those parameters that the network's output is sensitive to: memory aware synapses (MAS).

R. Aljundi, F. Babiloni, M. Elhoseiny, M. Rohrbach, T. Tuytelaars, "Memory Aware Synapses: Learning what (not)
to forget", ECCV 2018, arXiv 1711.09601.

    CE + strength * sum_i Omega_i (w_i - w*_i)^2,    Omega_i += mean over images of |d |logits|^2 / d w_i|

No label is used for the importances Omega; w* are the parameters at the end of the last task.

Differs from the paper: the importances are estimated from some of the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from clbench.data.inputs import Batch, Feed
from clbench.learning.importance import Anchored, flat, mean_by_image
from clbench.strategies import Task, register


@register("mas", petl="adapter")
@dataclass
class MAS(Anchored):
    """Cross-entropy over all classes seen so far, and the pull towards the last task's parameters."""

    rereads: ClassVar[str] = "the importances, when the task ends"

    strength: Annotated[float, Field(ge=0)] = 1.0  # lambda
    importance_images: Annotated[int, Field(ge=0)] = 500  # that Omega is estimated from; 0: all of the task

    def end_task(self, task: Task, images: Feed) -> None:
        """Add the task's importances, and move the anchor."""
        learning = self.learning()
        places = self.some_of(images, self.importance_images, task)
        self.held.importance += mean_by_image(torch.abs, self._size, learning, images, places)
        self.held.anchor.copy_(flat(learning).detach())

    def _size(self, batch: Batch) -> Tensor:
        return self.model.logits(batch).square().sum()
