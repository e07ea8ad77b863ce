"""Learn each batch together with as many images from a memory: experience replay (ER).

A. Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019, arXiv 1902.10486. The memory is a
reservoir: at any moment each image met so far is in it with the same probability, whatever the tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.classifier import Classifier
from clbench.inputs import Batch, Inputs
from clbench.memory import Memory
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


@register("er", petl="adapter")
@dataclass
class ER(Strategy):
    """Cross-entropy over all classes seen so far, on new and replayed images alike."""

    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "online": {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0},
    }

    memory_size: Annotated[int, Field(ge=1)] = 2000  # images
    replay_batch: Annotated[int, Field(ge=0)] = 0  # images replayed a step; 0: as many as are new

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module, and start with a head without classes and an empty memory."""
        self.model = Classifier(backbone, petl, seeds, self.head_bits)
        self.memory = Memory(self.memory_size).to(backbone.device)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module, the head and the memory."""
        return {**self.model.parts(), "memory": self.memory}

    def begin_task(self, task: Task) -> None:
        """Append a head for the new classes."""
        self.model.grow(task)
        self.memory.reserve(task.train.image_shape)

    def before_step(self, batch: Batch) -> Batch:
        """Put replayed images behind the new ones."""
        drawn = self.memory.draw(self.replay_batch or len(batch), batch.generator("replay"))
        return batch.followed_by(self.memory.at(drawn))

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy over all classes seen."""
        return F.cross_entropy(self.model.logits(batch), batch.labels)

    def after_step(self, batch: Batch) -> None:
        """Offer the new images to the reservoir, the first time that they are met."""
        if batch.is_first_pass:
            self.memory.reservoir(batch.new(), batch.generator("memory"))

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen."""
        return self.model.probabilities(inputs)
