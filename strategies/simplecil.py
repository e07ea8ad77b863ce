"""Classify by class means of frozen features: the baseline without any training (SimpleCIL, NCM).

D.-W. Zhou, Z.-W. Cai, H.-J. Ye, D.-C. Zhan, Z. Liu, "Revisiting Class-Incremental Learning with Pre-Trained
Models: Generalizability and Adaptivity are All You Need", IJCV 2024, arXiv 2303.07338. A class's prototype is
the mean of its images' features, the score the cosine between an image's features and the prototype. The
result depends neither on the number of tasks nor on their order.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Feed, Inputs
from clbench.learning.prototypes import Prototypes
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


@register("simplecil", petl="linear")
@dataclass
class SimpleCIL(Strategy):
    """Cosine to the mean of raw, un-normalised features; nothing is trained."""

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Start without prototypes; a module, where one is asked for, stays as it begins."""
        self.backbone = backbone
        self.module = petl.attach(backbone, seeds.generator("petl")).requires_grad_(False)
        self.prototypes = Prototypes(backbone.width)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the prototypes."""
        return {"petl": self.module, "prototypes": self.prototypes}

    def num_epochs(self, task_index: int) -> int:
        """Train on nothing."""
        return 0

    def begin_task(self, task: Task) -> None:
        """Make room for the new classes' prototypes."""
        self.prototypes.grow(len(task.new_classes), self.backbone.device)

    def end_task(self, task: Task, images: Feed) -> None:
        """Add the task's images to their classes' means."""
        for batch in images:
            self.prototypes.add(batch.features(self.backbone), batch.labels)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the cosines, shifted to [0, 1]."""
        return (1 + self.prototypes.cosines(inputs.features(self.backbone))) / 2
