"""Put a head that grows on a backbone with one module: what most strategies train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Inputs
from clbench.data.tasks import Task
from clbench.learning.heads import GrowingHead
from clbench.petl import Petl
from clbench.seeds import Seeds


class Classifier:
    """A module on a backbone, and a head over all classes seen so far."""

    def __init__(self, backbone: Backbone, petl: Petl, seeds: Seeds, head_bits: int) -> None:
        """Attach the module, and start with a head without classes."""
        self.backbone = backbone
        self.petl = petl
        self.seeds = seeds
        self.module = petl.attach(backbone, seeds.generator("petl"))
        self.head = GrowingHead(backbone.width, bits=head_bits)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module and the head."""
        return {"petl": self.module, "head": self.head}

    def grow(self, task: Task) -> None:
        """Append a head for the task's new classes."""
        self.head.grow(len(task.new_classes), self.seeds.generator("head", task.index), self.backbone.device)

    def start_again(self, task: Task) -> None:
        """Go back to the pre-trained backbone, with a fresh module and a head for all classes so far."""
        self.module.detach()
        self.module = self.petl.attach(self.backbone, self.seeds.generator("petl"))
        num_classes = self.head.num_classes + len(task.new_classes)
        self.head = GrowingHead(self.backbone.width, bits=self.head.bits)
        self.head.grow(num_classes, self.seeds.generator("head", task.index), self.backbone.device)

    def logits(self, inputs: Inputs) -> Tensor:
        """Return the logits (B, classes seen)."""
        logits: Tensor = self.head(inputs.features(self.backbone))
        return logits

    def probabilities(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen, (B, classes seen), float32."""
        return torch.softmax(self.logits(inputs).float(), dim=1)
