"""Train on the data of all tasks at once: the upper bound that continual learners are measured against.

By default the training happens once, when the last task has arrived, and the accuracies before that are
unknown. With ``when="every"`` a fresh model is trained on everything so far after each task, which also gives
the reference for intransigence (A. Chaudhry et al., ECCV 2018, arXiv 1801.10112) at the price of (T + 1) / 2
times the compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.samples import Samples, join
from clbench.heads import GrowingHead
from clbench.inputs import Batch, Inputs
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


@register("joint", petl="adapter")
@dataclass
class Joint(Strategy):
    """Cross-entropy over all classes, on all data so far, from the pre-trained backbone each time."""

    needs: ClassVar[tuple[str, ...]] = ("many-passes",)

    when: Literal["last", "every"] = "last"  # train after the last task only, or after every task

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Remember how to make a module; a fresh one is attached for every training."""
        self.backbone = backbone
        self.petl = petl
        self.seeds = seeds
        self.module = petl.attach(backbone, seeds.generator("petl"))
        self.head = GrowingHead(backbone.width, bits=self.head_bits)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module and the head."""
        return {"petl": self.module, "head": self.head}

    def training_samples(self, seen: Sequence[Task], num_tasks: int) -> Samples | None:
        """Return all data so far, or None while waiting for the last task."""
        if self.when == "last" and len(seen) < num_tasks:
            return None
        return join([task.train for task in seen])

    def begin_task(self, task: Task) -> None:
        """Start again from the pre-trained backbone, with a head for all classes so far."""
        self.module.detach()
        self.module = self.petl.attach(self.backbone, self.seeds.generator("petl"))
        num_classes = self.head.num_classes + len(task.new_classes)
        self.head = GrowingHead(self.backbone.width, bits=self.head_bits)
        self.head.grow(num_classes, self.seeds.generator("head", task.index), self.backbone.device)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy over all classes."""
        return F.cross_entropy(self.head(batch.features(self.backbone)), batch.labels)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes."""
        logits: Tensor = self.head(inputs.features(self.backbone))
        return torch.softmax(logits.float(), dim=1)
