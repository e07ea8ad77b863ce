"""Keep a memory of images beside a head that grows: what strategies share that do not replay at each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.learning.classifier import Classifier
from clbench.learning.memory import Memory
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy


@dataclass
class Rehearsal(Strategy):
    """A classifier and a memory; a subclass says what is put into it, and what it serves for."""

    gives_probabilities: ClassVar[bool] = True

    memory_size: Annotated[int, Field(ge=1)] = 2000  # images

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module, and start with a head without classes and an empty memory."""
        self.seeds = seeds
        self.model = Classifier(backbone, petl, seeds, self.head_bits)
        self.memory = Memory(self.memory_size).to(backbone.device)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module, the head and the memory."""
        return {**self.model.parts(), "memory": self.memory}

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy over all classes seen."""
        return F.cross_entropy(self.model.logits(batch), batch.labels)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen."""
        return self.model.probabilities(inputs)
