"""Train only the newest classes' rows of the classifier, and replay only "this is an old task" (TAER).

Z. Li, S. Jie, Z. Deng, "Detachedly Learn a Classifier for Class-Incremental Learning", 2023,
arXiv 2302.11730. This is a reconstruction: the abstract and the introduction are all that could be read of
the paper, and there is no public code. What they state leaves little free on frozen features: the replayed
cross-entropy and its task term teach the new rows the same.

    z = [sg(W_old) h ; W_new h]                                   (sg: no gradient; h = f(x))
    loss = CE(z, y) over the new images - lambda mean over the replayed ones of log p(an old class)
    lambda = number of old classes / number of new classes

Differs from the paper: epochs, learning rate, memory and lambda are our choice. The replayed loss grows with
the tasks, so a rate that suits the first one may be far too high for the last; chosen on held-out images.

The accuracy among the classes of an old task alone never changes while the features are frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.batches import in_order
from clbench.data.inputs import Batch, Feed, Inputs
from clbench.learning.heads import GrowingHead
from clbench.learning.losses.task_decomposition import task_term
from clbench.learning.memory import Memory
from clbench.learning.replay import with_replayed
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


@register("taer", petl="linear")
@dataclass
class TAER(Strategy):
    """Replay with a detached classifier, weighted by how many classes are old.

    ``detach_old=False``, ``replay_loss="ce"`` and ``rebalance="none"`` together are plain replay.
    """

    gives_probabilities: ClassVar[bool] = True
    recipes: ClassVar[dict[str, dict[str, Any]]] = {"split-digits": {"learning_rate": 0.03}}

    needs: ClassVar[tuple[str, ...]] = ("boundaries", "new-classes", "disjoint-classes", "many-passes")

    optimizer: Literal["adam", "adamw", "sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    memory_size: Annotated[int, Field(ge=1)] = 2000  # images, as many of each class
    rebalance: Literal["prior", "none"] | Annotated[float, Field(ge=0)] = (
        "prior"  # lambda: old classes / new classes, 1, or a number
    )
    detach_old: bool = True  # leave the rows of old classes as they are
    replay_loss: Literal["task", "ce"] = "task"  # of a replayed image: is it old, or which class is it
    adapt: Literal["first", "every"] = "first"  # the tasks in which the module is trained, where there is one

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module, and start with a head without classes and an empty memory."""
        self.backbone = backbone
        self.seeds = seeds
        self.module = petl.attach(backbone, seeds.generator("petl"))
        self.head = GrowingHead(backbone.width, std=0.01, bits=self.head_bits)
        self.memory = Memory(self.memory_size).to(backbone.device)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module, the head and the memory."""
        return {"petl": self.module, "head": self.head, "memory": self.memory}

    def begin_task(self, task: Task) -> None:
        """Take the old rows out of the optimiser, so that neither momentum nor decay moves them."""
        self.head.requires_grad_(not self.detach_old)
        self.head.grow(len(task.new_classes), self.seeds.generator("head", task.index), self.backbone.device)
        self.num_old = self.head.num_classes - len(task.new_classes)
        self.module.requires_grad_(task.index == 0 or self.adapt == "every")
        self.memory.reserve(task.train.image_shape)

    def before_step(self, batch: Batch) -> Batch:
        """Put as many replayed images behind the new ones."""
        return with_replayed(batch, self.memory, len(batch))

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of the new images and the weighted loss of the replayed ones."""
        logits = self._logits(self._view(batch))
        new, replayed = logits[: batch.num_new], logits[batch.num_new :]
        loss = F.cross_entropy(new, batch.labels[: batch.num_new])
        if len(replayed) == 0:
            return loss
        if self.replay_loss == "ce":
            return loss + self.replay_weight * F.cross_entropy(replayed, batch.labels[batch.num_new :])
        is_old = torch.arange(logits.shape[1], device=logits.device) < self.num_old
        return loss + self.replay_weight * task_term(replayed, is_old)

    def end_task(self, task: Task, images: Feed) -> None:
        """Offer the task's images to the memory, in random order."""
        order = torch.randperm(len(images), generator=self.seeds.generator("memory-order", task.index))
        generator = self.seeds.generator("memory", task.index)
        for part in in_order(len(images), images.batch_size):
            self.memory.balance(images.at(order[part].numpy()).new(), generator)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen."""
        return torch.softmax(self._logits(inputs).float(), dim=1)

    @property
    def replay_weight(self) -> float:
        """Lambda: what restores the odds of old to new that images drawn from all classes would have."""
        if self.rebalance == "prior":
            return self.num_old / (self.head.num_classes - self.num_old)
        return 1.0 if self.rebalance == "none" else float(self.rebalance)

    def _view(self, batch: Batch) -> Batch:
        """Return augmented images while the module learns, else plain ones, whose features are kept."""
        return batch if any(p.requires_grad for p in self.module.parameters()) else batch.plain()

    def _logits(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self.head(inputs.features(self.backbone))
        return logits
