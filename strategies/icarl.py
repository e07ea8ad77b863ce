"""Keep exemplars chosen by herding, distil the old network, and classify by the exemplars' means (iCaRL).

S.-A. Rebuffi, A. Kolesnikov, G. Sperl, C. H. Lampert, "iCaRL: Incremental Classifier and Representation
Learning", CVPR 2017, arXiv 1611.07725.

A task is learnt from its images and the exemplars together. With g_y the sigmoid of a logit and q_y that of
the network before the task, the loss of an image is, summed over classes,

    BCE(g_y, [y is the label]) over the new classes + BCE(g_y, q_y) over the old ones    (the paper's)

``loss_form="ce"`` is what later work often trains instead: a cross-entropy over all classes and a
distillation of the softened softmax over the old ones. The paper's is the default. Then each class keeps
memory_size // classes exemplars, the first of their ranking, and the prediction is the nearest mean of unit
features.

Differs from the paper: optimiser, learning rate and epochs are those of this bench's other methods; the paper
trains a ResNet-32 from scratch (SGD at 2.0, 70 epochs of 128). The old network sees the augmented images.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Feed, Inputs
from clbench.data.samples import Samples, join
from clbench.errors import UserError
from clbench.learning.balancing import rank_within
from clbench.learning.heads import GrowingHead
from clbench.learning.herding import herding
from clbench.learning.losses.distillation import distillation
from clbench.learning.memory import Memory
from clbench.learning.memory_means import MemoryClassifier, NearestMean
from clbench.petl import Petl
from clbench.petl.attached import Attached, swapped
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


class NoRoomError(UserError, ValueError):
    """A memory that has no place for an exemplar of each class."""


@register("icarl", petl="adapter")
@dataclass
class ICaRL(Strategy):
    """Exemplars by herding, distillation from the network before the task, nearest mean of exemplars."""

    needs: ClassVar[tuple[str, ...]] = ("boundaries", "new-classes", "disjoint-classes", "many-passes")

    memory_size: Annotated[int, Field(ge=1)] = 2000  # K: exemplars of all classes together
    loss_form: Literal["bce", "ce"] = "bce"  # the paper's, or cross-entropy and distillation
    temperature: Annotated[float, Field(gt=0)] = 2.0  # ce: of the distillation

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module, and start with a head without classes and no exemplars."""
        self.backbone = backbone
        self.seeds = seeds
        self.module = petl.attach(backbone, seeds.generator("petl"))
        self.head = GrowingHead(backbone.width, bits=self.head_bits)
        self.old_module: Attached | None = None
        self.old_head = self.head
        self.memory = Memory(self.memory_size).to(backbone.device)
        self.means = MemoryClassifier(backbone, self.memory, NearestMean)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module and the head, as they are and as they were before the task, and the exemplars."""
        held: dict[str, nn.Module] = {"petl": self.module, "head": self.head, "memory": self.memory}
        if self.old_module is not None:
            held |= {"petl old": self.old_module, "head old": self.old_head}
        return held

    def training_samples(self, seen: Sequence[Task], num_tasks: int) -> Samples:
        """Return the task's images and the exemplars."""
        new, exemplars = seen[-1].train, self.memory.at(torch.arange(len(self.memory)))
        old = Samples(new.images, exemplars.rows.cpu().numpy(), exemplars.labels.cpu().numpy())
        return join([new, old])

    def begin_task(self, task: Task) -> None:
        """Keep a copy of the network for its answers, and append a head for the new classes."""
        self.memory.reserve(task.train.image_shape)
        if self.head.num_classes:
            self.old_head = copy.deepcopy(self.head).requires_grad_(False)
            if self.old_module is not None:
                self.old_module.detach()
            self.old_module = self.module.copy().requires_grad_(False)
        self.head.grow(len(task.new_classes), self.seeds.generator("head", task.index), self.backbone.device)
        self.means.forget()
        if self.memory_size < self.head.num_classes:
            raise NoRoomError(
                f"strategy.memory_size: {self.memory_size} leaves no exemplar for each of"
                f" {self.head.num_classes} classes; at least {self.head.num_classes} are needed"
            )

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of new labels and old answers."""
        logits = self.head(batch.features(self.backbone))
        if self.old_module is None:
            old = logits[:, :0]
        else:
            with torch.no_grad(), swapped(off=self.module, on=self.old_module):
                old = self.old_head(batch.features(self.backbone))
        if self.loss_form == "bce":
            target = F.one_hot(batch.labels, logits.shape[1]).to(logits.dtype)
            target[:, : old.shape[1]] = old.sigmoid()
            return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(batch)
        loss = F.cross_entropy(logits, batch.labels)
        if old.shape[1] == 0:
            return loss
        return loss + distillation(logits[:, : old.shape[1]], old, temperature=self.temperature)

    def after_step(self, batch: Batch) -> None:
        """Notice that the encoder has changed."""
        self.means.forget()

    def end_task(self, task: Task, images: Feed) -> None:
        """Cut each old class's exemplars down to the first of their ranking, and choose those of the new."""
        share = self.memory_size // self.head.num_classes
        self.memory.keep(
            (rank_within(self.memory.labels[: len(self.memory)].cpu()) < share).nonzero().flatten()
        )
        features = F.normalize(images.features(self.backbone).float(), dim=1)
        for number in task.new_classes:
            places = (images.labels == number).nonzero().flatten()
            ranking = herding(features[places.to(features.device)], share).cpu()
            self.memory.append(images.at(places[ranking].numpy()).new())
        self.means.forget()

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the cosines to the exemplars' means."""
        return self.means.scores(inputs, self.head.num_classes)

    def summary(self) -> dict[str, Tensor]:
        """Return the class means."""
        return self.means.summary()

    def predict_by(self, summary: Mapping[str, Tensor]) -> None:
        """Take the class means."""
        self.means.predict_by(summary, self.head.num_classes)
