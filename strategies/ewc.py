"""Hold parameters by the Fisher information of earlier tasks: elastic weight consolidation (EWC).

J. Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, arXiv 1612.00796
("separate": one quadratic penalty a task); J. Schwarz et al., "Progress & Compress", ICML 2018, arXiv
1805.06370 ("online": one penalty, its Fisher information decayed, around the newest parameters).

    CE + strength * sum_i F_i (w_i - w*_i)^2,    F_i = mean over images of (d CE / d w_i)^2

``strength`` is lambda / 2 of the paper. The penalties of several tasks sum to one quadratic again, with the
sum of their F around the F-weighted mean of their w*, but for a constant: so both modes keep two numbers a
parameter, whatever the number of tasks.

Differs from the paper: F is taken at the true labels (the empirical Fisher information), on some images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from clbench.data.inputs import Feed
from clbench.learning.importance import Anchored, flat, mean_by_image
from clbench.strategies import Task, register


@register("ewc", petl="adapter")
@dataclass
class EWC(Anchored):
    """Cross-entropy over all classes seen so far, and the pull towards earlier parameters."""

    rereads: ClassVar[str] = "the Fisher information, when the task ends"

    strength: Annotated[float, Field(ge=0)] = 1000.0  # lambda / 2
    mode: Literal["separate", "online"] = "separate"  # a penalty of each task, or one that is renewed
    decay: Annotated[float, Field(ge=0, le=1)] = 1.0  # online: kept of the Fisher information at each task
    importance_images: Annotated[int, Field(ge=0)] = 500  # that F is estimated from; 0: all of the task

    def end_task(self, task: Task, images: Feed) -> None:
        """Add the task's Fisher information, and move the anchor."""
        learning, held = self.learning(), self.held
        places = self.some_of(images, self.importance_images, task)
        fisher = mean_by_image(torch.square, self.cross_entropy, learning, images, places)
        parameters = flat(learning).detach()
        if self.mode == "online":
            held.importance.mul_(self.decay).add_(fisher)
            held.anchor.copy_(parameters)
        else:
            held.importance += fisher
            share = fisher / held.importance.clamp(min=torch.finfo(fisher.dtype).tiny)
            held.anchor.lerp_(parameters, share)
