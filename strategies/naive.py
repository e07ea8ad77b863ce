"""Fine-tune on one task after another, with nothing against forgetting: the lower bound.

The same module, head, optimiser and schedule as LAE by default, so that the difference between the two is
what LAE adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.learning.classifier import Classifier
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


@register("naive", petl="adapter")
@dataclass
class Naive(Strategy):
    """Cross-entropy over all classes seen so far, on the current task's data."""

    gives_probabilities: ClassVar[bool] = True

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module and start with a head without classes."""
        self.model = Classifier(backbone, petl, seeds, self.head_bits)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module and the head."""
        return self.model.parts()

    def begin_task(self, task: Task) -> None:
        """Append a head for the new classes."""
        self.model.grow(task)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy over all classes seen."""
        return F.cross_entropy(self.model.logits(batch), batch.labels)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen."""
        return self.model.probabilities(inputs)
