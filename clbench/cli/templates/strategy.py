"""Remember the mean feature of each class, and go on classifying it while later tasks are learnt.

Say here whose method it is (authors, venue, arXiv) and, under "Differs from the paper:", what is another.
This one is the prototype part of F. Zhu et al., "Prototype Augmentation and Self-Supervision for Incremental
Learning", CVPR 2021: noise around the means stands for images that are no longer there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Feed, Inputs
from clbench.learning.classifier import Classifier
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


class Means(nn.Module):
    """The mean feature of each class; a module, so that checkpoints hold it and its bytes are counted."""

    values: Tensor

    def __init__(self, width: int) -> None:
        """Start without classes."""
        super().__init__()
        self.register_buffer("values", torch.zeros(0, width))

    def grow(self, num_classes: int) -> None:
        """Make room for new classes."""
        self.values = torch.cat([self.values, self.values.new_zeros(num_classes, self.values.shape[1])])


@register("example", petl="adapter")  # the module it gets where the user names none: --petl lora
@dataclass
class Example(Strategy):
    """Cross-entropy on the task's images, and on noise around the means of the classes before it."""

    gives_probabilities: ClassVar[bool] = True  # rows of predict() sum to 1, so calibration can be measured

    # Every field is an option: --set strategy.weight=2. Its type gives the range, this comment its help.
    weight: Annotated[float, Field(ge=0)] = 1.0  # of the loss on old classes
    noise: Annotated[float, Field(ge=0)] = 0.1  # deviation around a mean, as a share of the features' own

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module to the frozen backbone; make what does not depend on a task."""
        self.model = Classifier(backbone, petl, seeds, self.head_bits)  # the module, and a head that grows
        self.means = Means(backbone.width).to(backbone.device)

    def parts(self) -> dict[str, nn.Module]:
        """Hold all that is learnt: what is missing here is neither trained nor there after a resume."""
        return {**self.model.parts(), "means": self.means}

    def begin_task(self, task: Task) -> None:
        """Grow what grows with the classes; a resumed run calls this again and then loads the values."""
        self.num_old = self.model.head.num_classes
        self.model.grow(task)
        self.means.grow(len(task.new_classes))

    def loss(self, batch: Batch) -> Tensor:
        """Return the scalar to minimise; nothing is changed here."""
        loss = F.cross_entropy(self.model.logits(batch), batch.labels)
        if self.num_old == 0:
            return loss
        old = self.means.values[: self.num_old]
        # Random numbers come from a generator with a name, so that a resumed run draws the same.
        noise = torch.randn(old.shape, generator=batch.generator("noise around means")).to(old)
        logits = self.model.head(old + self.noise * old.std() * noise)
        return loss + self.weight * F.cross_entropy(logits, torch.arange(self.num_old, device=old.device))

    def end_task(self, task: Task, images: Feed) -> None:
        """Take the means of the new classes, now that the task is learnt."""
        features = images.features(self.model.backbone)
        for label in task.new_classes:
            self.means.values[label] = features[images.labels == label].mean(dim=0)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return a score for each image (rows) and class seen (columns); a row depends on its image alone."""
        return self.model.probabilities(inputs)
