"""Keep what the network says of new images about old classes: learning without forgetting (LwF).

Z. Li, D. Hoiem, "Learning without Forgetting", ECCV 2016, arXiv 1606.09282. Eq. 1-3:

    CE(new images, classes of the task) + strength * KL(softmax(old logits / T) || softmax(logits / T))

where the old logits are those that the network had when the task began, over the classes seen until then.

Differs from the paper: one head, whose classes compete at test time unless the task is told; the old logits
are computed on the augmented view that is learnt from; no warm-up of the new classes' weights.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.learning.classifier import Classifier
from clbench.learning.heads import GrowingHead
from clbench.learning.losses.distillation import distillation
from clbench.learning.replay import FROM_SCRATCH
from clbench.petl import Petl
from clbench.petl.attached import Attached, swapped
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


@register("lwf", petl="adapter")
@dataclass
class LwF(Strategy):
    """Cross-entropy among the task's classes, distillation of the earlier ones from the network before."""

    gives_probabilities: ClassVar[bool] = True
    recipes: ClassVar[dict[str, dict[str, Any]]] = {"online+full": FROM_SCRATCH}
    needs: ClassVar[tuple[str, ...]] = ("boundaries",)

    strength: Annotated[float, Field(ge=0)] = 1.0  # weight of the distillation
    temperature: Annotated[float, Field(gt=0)] = 2.0  # T, of both sides

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module and start with a head without classes; there is nothing to keep yet."""
        self.model = Classifier(backbone, petl, seeds, self.head_bits)
        self.old: tuple[Attached, GrowingHead] | None = None

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module and the head, and those that the task began with.

        The old come first: a module that trains the backbone itself sets its mode, and the last one counts.
        """
        old = {} if self.old is None else {"petl old": self.old[0], "head old": self.old[1]}
        return {**old, **self.model.parts()}

    def begin_task(self, task: Task) -> None:
        """Keep a copy of the module and the head, then append a head for the new classes."""
        self.is_other = torch.ones(self.model.head.num_classes + len(task.new_classes), dtype=torch.bool)
        self.is_other[task.classes] = False
        if self.model.head.num_classes:
            if self.old:
                self.old[0].detach()
            head = copy.deepcopy(self.model.head).requires_grad_(False)
            self.old = self.model.module.copy().requires_grad_(False), head
        self.model.grow(task)

    def loss(self, batch: Batch) -> Tensor:
        """Return the two terms."""
        old_logits = self._old_logits(batch)
        logits = self.model.logits(batch)
        among_task = logits.masked_fill(self.is_other.to(logits.device), -torch.inf)
        loss = F.cross_entropy(among_task, batch.labels)
        if old_logits is not None:
            known = logits[:, : old_logits.shape[1]]
            loss = loss + self.strength * distillation(known, old_logits, temperature=self.temperature)
        return loss

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen."""
        return self.model.probabilities(inputs)

    @torch.no_grad()
    def _old_logits(self, batch: Batch) -> Tensor | None:
        """Return what the network said of the images when the task began, in evaluation mode."""
        if self.old is None:
            return None
        module, head = self.old
        is_training = self.model.module.training
        with swapped(off=self.model.module, on=module):
            module.eval()
            logits: Tensor = head(batch.features(self.model.backbone))
        self.model.module.train(is_training)
        return logits
