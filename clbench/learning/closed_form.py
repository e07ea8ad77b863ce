"""Learn in closed form from the features of a backbone that stays as it is: what such strategies share.

Kept are statistics of the classes, which grow by a feature and a label at a time. The rule that classifies is
worked out of them when it is first asked for, and forgotten when they change.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Feed, Inputs
from clbench.learning.gaussians import Gaussians, PoweredGaussians
from clbench.learning.prototypes import Prototypes
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task

Statistics = Gaussians | PoweredGaussians | Prototypes
Rule = Callable[[Tensor], Tensor]  # features (B, D) to scores (B, C)


@dataclass
class ClosedForm(Strategy):
    """Statistics of frozen features; a subclass says which they are, and how they classify."""

    refits: ClassVar[bool] = True
    part: ClassVar[str]  # what the statistics are called in a checkpoint

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Start without classes; a module, where one is asked for, stays as it begins."""
        self.backbone = backbone
        self.module = petl.attach(backbone, seeds.generator("petl")).requires_grad_(False)
        self.statistics = self.begin(backbone.width)
        self.known: Rule | None = None  # of what the statistics are now

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module and the statistics."""
        return {"petl": self.module, self.part: self.statistics}

    def num_epochs(self, task_index: int) -> int:
        """Train on nothing."""
        return 0

    def begin_task(self, task: Task) -> None:
        """Make room for the new classes."""
        self.statistics.grow(len(task.new_classes), self.backbone.device)
        self.known = None

    def end_task(self, task: Task, images: Feed) -> None:
        """Add the task's images to the statistics."""
        for batch in images:
            self.statistics.add(self.prepared(batch.features(self.backbone)), batch.labels)
        self.known = None

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the scores by the rule of all images so far."""
        self.known = self.known or self.rule()
        return self.known(self.prepared(inputs.features(self.backbone)))

    def forget(self) -> None:
        """Start without classes again."""
        self.statistics = self.begin(self.backbone.width)
        self.known = None

    def prepared(self, feature_BD: Tensor) -> Tensor:
        """Return features as they are learnt from and classified."""
        return feature_BD

    @abstractmethod
    def begin(self, width: int) -> Statistics:
        """Return the statistics of no class yet."""

    @abstractmethod
    def rule(self) -> Rule:
        """Return what classifies by the statistics as they are now."""
