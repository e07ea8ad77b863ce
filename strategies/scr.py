"""Contrast two views of new and replayed images by their classes, and classify by class means (SCR).

Z. Mai, R. Li, H. Kim, S. Sanner, "Supervised Contrastive Replay: Revisiting the Nearest Class Mean Classifier
in Online Class-Incremental Continual Learning", CVPR Workshops 2021, arXiv 2103.13885.

    loss = SupCon of g(f(x)) over the images and an augmented view of each
    prediction = nearest normalised mean of f over the memory's images of a class

It lives on many replayed images: 100 beside 10 new ones. Each image is met once; nothing is said about tasks.

Differs from the paper:
- The augmented view is the stream's: no change of colours.
- The first batch, before there is a memory, is learnt from, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.learning.losses.supervised_contrastive import supervised_contrastive
from clbench.learning.memory import Memory
from clbench.learning.memory_means import MemoryClassifier, NearestMean
from clbench.learning.replay import FROM_SCRATCH, with_replayed
from clbench.petl import Petl
from clbench.petl.parts.initialise import kaiming_uniform
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


@register("scr", petl="adapter")
@dataclass
class SCR(Strategy):
    """Supervised contrastive replay, and nearest class means of the memory."""

    recipes: ClassVar[dict[str, dict[str, Any]]] = {"online+full": FROM_SCRATCH}

    epochs: Annotated[int, Field(ge=1)] = 1
    batch_size: Annotated[int, Field(ge=1)] = 10
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    memory_size: Annotated[int, Field(ge=1)] = 2000  # images
    replay_batch: Annotated[int, Field(ge=0)] = 100  # images replayed a step
    temperature: Annotated[float, Field(gt=0)] = 0.07  # of the contrast
    projection: Annotated[int, Field(ge=1)] = 128  # width of what is contrasted

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module; start with a projection and an empty memory."""
        self.backbone = backbone
        self.module = petl.attach(backbone, seeds.generator("petl"))
        self.projector = Projector(backbone.width, self.projection, seeds.generator("projection"))
        self.projector.to(backbone.device)
        self.memory = Memory(self.memory_size).to(backbone.device)
        self.means = MemoryClassifier(backbone, self.memory, NearestMean)
        self.num_classes = 0  # that may have come so far

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module, the projection and the memory."""
        return {"petl": self.module, "projection": self.projector, "memory": self.memory}

    def begin_task(self, task: Task) -> None:
        """Count the classes that may come now."""
        self.num_classes += len(task.new_classes)
        self.memory.reserve(task.train.image_shape)
        self.means.forget()

    def before_step(self, batch: Batch) -> Batch:
        """Put replayed images behind the new ones."""
        return with_replayed(batch, self.memory, self.replay_batch)

    def loss(self, batch: Batch) -> Tensor:
        """Return the contrast of all views of all images."""
        views = torch.cat([batch.plain().images, batch.images])
        projected = self.projector(self.backbone(views))
        return supervised_contrastive(projected, batch.labels.repeat(2), temperature=self.temperature)

    def after_step(self, batch: Batch) -> None:
        """Offer the new images to the reservoir, the first time that they are met."""
        if batch.is_first_pass:
            self.memory.reservoir(batch.new(), batch.generator("memory"))
        self.means.forget()

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the cosines to the class means."""
        return self.means.scores(inputs, self.num_classes)

    def summary(self) -> dict[str, Tensor]:
        """Return the class means."""
        return self.means.summary()

    def predict_by(self, summary: Mapping[str, Tensor]) -> None:
        """Take the class means."""
        self.means.predict_by(summary, self.num_classes)


class Projector(nn.Module):
    """Two layers that serve the training alone: features (B, D) to what is contrasted (B, P)."""

    def __init__(self, width: int, projection: int, generator: torch.Generator) -> None:
        """Draw the weights as torch does by default, but from the generator; the biases are zero."""
        super().__init__()
        with torch.device("meta"):  # nothing is drawn from a global generator
            self.hidden, self.out = nn.Linear(width, width), nn.Linear(width, projection)
        self.to_empty(device="cpu")
        for layer in (self.hidden, self.out):
            kaiming_uniform(layer.weight, generator)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the projections."""
        projected: Tensor = self.out(self.hidden(features).relu())
        return projected
