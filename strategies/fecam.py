"""Classify frozen features by the Mahalanobis distance to each class, with a covariance for each (FeCAM).

D. Goswami, Y. Liu, B. Twardowski, J. van de Weijer, "FeCAM: Exploiting the Heterogeneity of Class
Distributions in Exemplar-Free Continual Learning", NeurIPS 2023, arXiv 2309.14062. A covariance is shrunk,
``S + g1 v1 I + g2 v2 (1 - I)`` with v1 and v2 the means on and off its diagonal, then scaled to a correlation
matrix. The defaults are the authors' for pre-trained ViTs: features of unit length, g1 = 1, g2 = 0, no power.
With far fewer images a class than the width of the features, ``shared`` or a g1 near 10 does better.

Differs from the paper:
- A class with fewer than two different images gets the mean covariance of the others; if there are none, the
  distance is Euclidean (our choice).
- The power keeps the sign, so that it also takes the features of a ViT, which may be negative (our choice).
- ``shared`` is one covariance within all classes (our choice); the paper's also holds what lies between the
  classes of a task.

Shapes: B images, C classes, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Feed, Inputs
from clbench.learning.gaussians import Gaussians
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register

JITTER = 1e-6  # added to a diagonal of ones, so that rounding makes no correlation matrix indefinite


@register("fecam", petl="linear")
@dataclass
class FeCAM(Strategy):
    """Minus the Mahalanobis distance to each class; nothing is trained."""

    shared: bool = False  # one covariance for all classes, D^2 numbers, not one each, C D^2
    power: Annotated[float, Field(gt=0, le=1)] = 1.0  # Tukey's lambda; 0.5 in the paper for ConvNets
    diagonal_shrinkage: Annotated[float, Field(ge=0)] = 1.0  # g1; more where a class has few images
    other_shrinkage: Annotated[float, Field(ge=0)] = 0.0  # g2, at most g1; 1 in the paper for ConvNets

    def __post_init__(self) -> None:
        """Refuse what makes a covariance indefinite."""
        if self.other_shrinkage > self.diagonal_shrinkage:
            raise ValueError(
                f"other_shrinkage is {self.other_shrinkage}; at most diagonal_shrinkage,"
                f" {self.diagonal_shrinkage}, is allowed"
            )

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Start without classes; a module, where one is asked for, stays as it begins."""
        self.backbone = backbone
        self.module = petl.attach(backbone, seeds.generator("petl")).requires_grad_(False)
        self.gaussians = Gaussians(backbone.width, is_shared=self.shared)
        self.factors: Tensor | None = None  # of the correlations, of what the Gaussians are now

    def parts(self) -> dict[str, nn.Module]:
        """Hold the means and covariances."""
        return {"petl": self.module, "gaussians": self.gaussians}

    def num_epochs(self, task_index: int) -> int:
        """Train on nothing."""
        return 0

    def begin_task(self, task: Task) -> None:
        """Make room for the new classes."""
        self.gaussians.grow(len(task.new_classes), self.backbone.device)
        self.factors = None

    def end_task(self, task: Task, images: Feed) -> None:
        """Add the task's images to their classes' means and covariances."""
        for batch in images:
            self.gaussians.add(self._features(batch), batch.labels)
        self.factors = None

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over minus the squared distances."""
        if self.factors is None:
            covariance_CDD = shrunk(
                self.gaussians.covariances(), self.diagonal_shrinkage, self.other_shrinkage
            )
            self.factors = factors_of(correlations(covariance_CDD))
        feature_BD = self._features(inputs)
        with torch.autocast(feature_BD.device.type, enabled=False):
            distance_BC = squared_distances(feature_BD, self.gaussians.means.float(), self.factors)
        return torch.softmax(-distance_BC, dim=1)

    def _features(self, inputs: Inputs) -> Tensor:
        """Return the features (B, D), brought nearer to normally distributed, of unit length."""
        feature_BD = inputs.features(self.backbone).float()
        return F.normalize(feature_BD.sign() * feature_BD.abs() ** self.power, dim=1)


@torch.no_grad()
def shrunk(covariance_CDD: Tensor, on_diagonal: float, off_diagonal: float) -> Tensor:
    """Return the covariances with multiples of their mean variance and mean covariance added."""
    width = covariance_CDD.shape[-1]
    identity_DD = torch.eye(width, device=covariance_CDD.device)
    trace_C = covariance_CDD.diagonal(dim1=1, dim2=2).sum(dim=1)
    others_C = covariance_CDD.sum(dim=(1, 2)) - trace_C
    variance_C = trace_C / width
    between_C = others_C / max(1, width * (width - 1))
    added_CDD = on_diagonal * variance_C[:, None, None] * identity_DD
    return covariance_CDD + added_CDD + off_diagonal * between_C[:, None, None] * (1 - identity_DD)


@torch.no_grad()
def correlations(covariance_CDD: Tensor) -> Tensor:
    """Return the correlation matrices; those without variance become the mean of the others, or I."""
    variance_CD = covariance_CDD.diagonal(dim1=1, dim2=2)
    has_spread = (variance_CD > 0).all(dim=1)
    if not has_spread.any():
        return torch.eye(variance_CD.shape[1], device=covariance_CDD.device).expand_as(covariance_CDD)
    mean_DD = covariance_CDD[has_spread].mean(dim=0)
    covariance_CDD = torch.where(has_spread[:, None, None], covariance_CDD, mean_DD)
    deviation_CD = covariance_CDD.diagonal(dim1=1, dim2=2).sqrt()
    return covariance_CDD / (deviation_CD[:, :, None] * deviation_CD[:, None, :])


@torch.no_grad()
def factors_of(correlation_CDD: Tensor) -> Tensor:
    """Return the Cholesky factors of the correlation matrices."""
    jitter_DD = JITTER * torch.eye(correlation_CDD.shape[-1], device=correlation_CDD.device)
    factor_CDD: Tensor = torch.linalg.cholesky(correlation_CDD + jitter_DD)
    return factor_CDD


def squared_distances(feature_BD: Tensor, mean_CD: Tensor, factor_CDD: Tensor) -> Tensor:
    """Return the squared Mahalanobis distances (B, C), given the Cholesky factors, one a class or one."""
    deviation_CDB = (feature_BD[None] - mean_CD[:, None]).transpose(1, 2)
    white_CDB: Tensor = torch.linalg.solve_triangular(factor_CDD, deviation_CDB, upper=False)
    return white_CDB.square().sum(dim=1).T
