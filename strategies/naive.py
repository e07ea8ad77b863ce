"""Fine-tune on one task after another, with nothing against forgetting: the lower bound.

The same module, head, optimiser and schedule as LAE by default, so that the difference between the two is
what LAE adds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.heads import GrowingHead
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Batch, Strategy, Task, register


@register("naive", petl="adapter")
@dataclass
class Naive(Strategy):
    """Cross-entropy over all classes seen so far, on the current task's data."""

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module and start with a head without classes."""
        self.backbone = backbone
        self.seeds = seeds
        self.module = petl.attach(backbone, seeds.generator("petl"))
        self.head = GrowingHead(backbone.width, bits=self.head_bits)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module and the head."""
        return {"petl": self.module, "head": self.head}

    def begin_task(self, task: Task) -> None:
        """Append a head for the new classes."""
        self.head.grow(len(task.new_classes), self.seeds.generator("head", task.index), self.backbone.device)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy over all classes seen."""
        return F.cross_entropy(self.head(self.backbone(batch.images)), batch.labels)

    def predict(self, images: Tensor) -> Tensor:
        """Return the softmax over all classes seen."""
        logits: Tensor = self.head(self.backbone(images))
        return torch.softmax(logits.float(), dim=1)
