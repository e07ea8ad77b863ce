"""Replay a memory beside the new images: what rehearsal strategies share.

Quality Retaining, a loss that holds the classes in a batch near the logits that they had a while ago (see
``clbench.learning.losses.quality_retaining``), can be added to each of them. It acts on the classes that a
batch contains, so that it protects an old class only where that class is replayed.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.learning.classifier import Classifier
from clbench.learning.losses.quality_retaining import QualityRetaining
from clbench.learning.memory import Memory
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task

# The recipe of online learning with a network of its own, such as slim-resnet18 with the module "full".
FROM_SCRATCH = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0}


@dataclass
class Replay(Strategy):
    """A head over all classes seen, and a reservoir of the images met; a subclass says what is learnt."""

    gives_probabilities: ClassVar[bool] = True
    recipes: ClassVar[dict[str, dict[str, Any]]] = {"online+full": FROM_SCRATCH}
    keeps_logits: ClassVar[bool] = False  # whether the memory keeps the logits that an image had
    draws: ClassVar[tuple[str, ...]] = ("replay",)  # generators, each of which draws images for a step

    memory_size: Annotated[int, Field(ge=1)] = 2000  # images
    replay_batch: Annotated[int, Field(ge=0)] = 0  # images in one draw; 0: as many as are new
    quality_retaining: Literal["off", "two_sample", "ema"] = (
        "off"  # hold a class near its earlier logits: the last two, or their moving average
    )

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module, and start with a head without classes and an empty memory."""
        self.model = Classifier(backbone, petl, seeds, self.head_bits)
        self.memory = Memory(self.memory_size).to(backbone.device)
        form = self.quality_retaining
        self.retaining = None if form == "off" else QualityRetaining(form).to(backbone.device)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module, the head, the memory and, if there is one, the bank of Quality Retaining."""
        retaining = {} if self.retaining is None else {"quality retaining": self.retaining}
        return {**self.model.parts(), "memory": self.memory, **retaining}

    def begin_task(self, task: Task) -> None:
        """Append a head for the new classes, and make room for their logits."""
        self.model.grow(task)
        num_classes = self.model.head.num_classes
        if self.keeps_logits:
            self.memory.reserve(task.train.image_shape, logits=((num_classes,), torch.float32))
            widen_logits(self.memory, num_classes)
        else:
            self.memory.reserve(task.train.image_shape)
        if self.retaining:
            self.retaining.grow(len(task.new_classes), task=task.index)

    def before_step(self, batch: Batch) -> Batch:
        """Put replayed images behind the new ones."""
        for purpose in self.draws:
            batch = with_replayed(batch, self.memory, self.replay_batch or batch.num_new, purpose)
        return batch

    def loss(self, batch: Batch) -> Tensor:
        """Return what the strategy learns by, plus Quality Retaining where it is on."""
        logits = self.model.logits(batch)
        self.logits = logits.detach()  # for what follows up on this step
        loss = self.replay_loss(logits, batch)
        if self.retaining:
            loss = loss + self.retaining.loss(logits, batch.labels)
        return loss

    @abstractmethod
    def replay_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the logits (B, classes seen) of new and replayed images."""

    def after_step(self, batch: Batch) -> None:
        """Offer the new images to the reservoir: once, or with their logits each time that they are met."""
        if self.retaining:
            self.retaining.update(self.logits, batch.labels)
        if batch.is_first_pass or (self.keeps_logits and batch.is_last_update):
            extras = {"logits": self.logits[: batch.num_new]} if self.keeps_logits else {}
            self.memory.reservoir(replace(batch.new(), extras=extras), batch.generator("memory"))

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen."""
        return self.model.probabilities(inputs)


def with_replayed(batch: Batch, memory: Memory, count: int, purpose: str = "replay") -> Batch:
    """Return the batch with so many images behind it, which the generator of ``purpose`` draws."""
    return batch.followed_by(memory.at(memory.draw(count, batch.generator(purpose))))


def widen_logits(memory: Memory, num_classes: int) -> None:
    """Give what is stored a logit for each later class: the lowest that the image has.

    A network that had the class from the start would have learnt that it is none of the images before it.
    """
    num_known = memory.get_buffer("logits").shape[1]
    memory.widen("logits", num_classes)
    logits = memory.get_buffer("logits")
    logits[:, num_known:] = logits[:, :num_known].amin(dim=1, keepdim=True)
