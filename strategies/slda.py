"""Classify frozen features by linear discriminant analysis, learnt as images come in (deep SLDA).

T. L. Hayes, C. Kanan, "Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis", CVPR
Workshops 2020, arXiv 1909.01520. Kept are a mean for each class and one covariance for all; with the
precision ``P = ((1 - e) Covariance + e I)^-1`` a class's score is ``mean' P x - mean' P mean / 2``.

Differs from the paper:
- The covariance is that within classes over all images so far, exactly, so the result depends neither on
  the order of the images nor on their batches. The paper's running estimate counts the first image of a
  class as a deviation from zero.
- Nothing is estimated in advance on a first set of classes.

Shapes: B images, C classes, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Feed, Inputs
from clbench.learning.gaussians import Gaussians
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


@register("slda", petl="linear")
@dataclass
class SLDA(Strategy):
    """Class means and one covariance within all classes; nothing is trained."""

    shrinkage: Annotated[float, Field(gt=0, le=1)] = 1e-4  # e: share of the identity in the covariance

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Start without classes; a module, where one is asked for, stays as it begins."""
        self.backbone = backbone
        self.module = petl.attach(backbone, seeds.generator("petl")).requires_grad_(False)
        self.gaussians = Gaussians(backbone.width, is_shared=True)
        self.rule: tuple[Tensor, Tensor] | None = None  # of what the Gaussians are now

    def parts(self) -> dict[str, nn.Module]:
        """Hold the means and the covariance."""
        return {"petl": self.module, "gaussians": self.gaussians}

    def num_epochs(self, task_index: int) -> int:
        """Train on nothing."""
        return 0

    def begin_task(self, task: Task) -> None:
        """Make room for the new classes."""
        self.gaussians.grow(len(task.new_classes), self.backbone.device)
        self.rule = None

    def end_task(self, task: Task, images: Feed) -> None:
        """Add the task's images to the means and the covariance."""
        for batch in images:
            self.gaussians.add(batch.features(self.backbone), batch.labels)
        self.rule = None

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the posterior of each class, all being equally likely beforehand."""
        self.rule = self.rule or discriminants(self.gaussians, self.shrinkage)
        weight_DC, bias_C = self.rule
        feature_BD = inputs.features(self.backbone)
        with torch.autocast(feature_BD.device.type, enabled=False):
            return torch.softmax(feature_BD.float() @ weight_DC + bias_C, dim=1)


@torch.no_grad()
def discriminants(gaussians: Gaussians, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return the weights (D, C) and biases (C,) of linear discriminant analysis."""
    mean_CD = gaussians.means
    covariance_DD = gaussians.covariances()[0].to(mean_CD.dtype)
    identity_DD = torch.eye(len(covariance_DD), dtype=mean_CD.dtype, device=mean_CD.device)
    shrunk_DD = (1 - shrinkage) * covariance_DD + shrinkage * identity_DD
    weight_DC = torch.linalg.solve(shrunk_DD, mean_CD.T)
    bias_C = -(mean_CD * weight_DC.T).sum(dim=1) / 2
    return weight_DC.float(), bias_C.float()
