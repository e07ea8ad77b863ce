"""Let no step raise the loss on a memory of earlier tasks: averaged gradient episodic memory (A-GEM).

A. Chaudhry, M. Ranzato, M. Rohrbach, M. Elhoseiny, "Efficient Lifelong Learning with A-GEM", ICLR 2019,
arXiv 1812.00420. With g the gradient of the new images and r that of a draw from the memory (Eq. 11):

    g <- g - (g . r / r . r) r    where g . r < 0

Differs from the paper: the memory is a reservoir of the tasks ended (our choice), not equally many images of
each class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from clbench.data.inputs import Batch, Feed
from clbench.learning.rehearsal import Rehearsal
from clbench.learning.replay import FROM_SCRATCH
from clbench.strategies import Task, register


@register("agem", petl="adapter")
@dataclass
class AGEM(Rehearsal):
    """Cross-entropy over all classes seen so far, its gradient projected where it would harm the memory."""

    recipes: ClassVar[dict[str, dict[str, Any]]] = {"online+full": FROM_SCRATCH}
    rereads: ClassVar[str] = "the memory, when the task ends"
    needs: ClassVar[tuple[str, ...]] = ("boundaries",)

    memory_size: Annotated[int, Field(ge=1)] = 2000  # images
    sample_size: Annotated[int, Field(ge=1)] = 64  # images of the memory a step

    def begin_task(self, task: Task) -> None:
        """Append a head for the new classes."""
        self.model.grow(task)
        self.memory.reserve(task.train.image_shape)

    def before_update(self, batch: Batch) -> None:
        """Take the part out of the gradient that points against the memory's."""
        if self.memory.is_empty:
            return
        drawn = self.memory.at(self.memory.draw(self.sample_size, batch.generator("replay")))
        learning = [p for group in self.trainable() for p in group["params"] if p.grad is not None]
        reference = torch.autograd.grad(
            self.loss(batch.recalled(drawn, "augment memory")),
            learning,
            allow_unused=True,
            materialize_grads=True,
        )
        project([parameter.grad for parameter in learning if parameter.grad is not None], reference)

    def end_task(self, task: Task, images: Feed) -> None:
        """Offer the task's images to the memory."""
        generator = self.seeds.generator("memory", task.index)
        for batch in images:
            self.memory.reservoir(batch.new(), generator)


@torch.no_grad()
def project(gradients: list[Tensor], references: tuple[Tensor, ...]) -> None:
    """Make the gradients, in place, orthogonal to the references where the angle is obtuse."""
    pairs = list(zip(gradients, references, strict=True))
    product = torch.stack([(gradient * reference).sum() for gradient, reference in pairs]).sum()
    square = torch.stack([reference.square().sum() for reference in references]).sum()
    tiny = torch.finfo(square.dtype).tiny
    share = product.clamp(max=0) / square.clamp(min=tiny)  # 0 at a fine angle: nothing changes
    for gradient, reference in pairs:
        gradient -= share * reference
