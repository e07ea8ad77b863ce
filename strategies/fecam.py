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
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from clbench.learning.closed_form import ClosedForm, Rule
from clbench.learning.gaussians import Gaussians
from clbench.strategies import register

JITTER = 1e-6  # added to a diagonal of ones, so that rounding makes no correlation matrix indefinite


@register("fecam", petl="linear")
@dataclass
class FeCAM(ClosedForm):
    """Minus the Mahalanobis distance to each class; nothing is trained."""

    part: ClassVar[str] = "gaussians"

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

    def begin(self, width: int) -> Gaussians:
        """Keep a mean and a covariance for each class."""
        self.gaussians = Gaussians(width, is_shared=self.shared)
        return self.gaussians

    def prepared(self, feature_BD: Tensor) -> Tensor:
        """Bring the features nearer to normally distributed, and to unit length."""
        feature_BD = feature_BD.float()
        return F.normalize(feature_BD.sign() * feature_BD.abs() ** self.power, dim=1)

    def rule(self) -> Rule:
        """Return minus the squared distances."""
        covariance_CDD = self.gaussians.covariances()
        shrunk_CDD = shrunk(covariance_CDD, self.diagonal_shrinkage, self.other_shrinkage)
        factor_CDD = factors_of(correlations(shrunk_CDD))
        mean_CD = self.gaussians.means.float()

        def scores(feature_BD: Tensor) -> Tensor:
            with torch.autocast(feature_BD.device.type, enabled=False):
                return -squared_distances(feature_BD, mean_CD, factor_CDD)

        return scores


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
