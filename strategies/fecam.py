"""Classify frozen features by the Mahalanobis distance to each class, with a covariance for each (FeCAM).

D. Goswami, Y. Liu, B. Twardowski, J. van de Weijer, "FeCAM: Exploiting the Heterogeneity of Class
Distributions in Exemplar-Free Continual Learning", NeurIPS 2023, arXiv 2309.14062. A covariance is shrunk,
``S + g1 v1 I + g2 v2 (1 - I)`` with v1 and v2 the means on and off its diagonal, then scaled to a correlation
matrix.

The defaults are those of the authors' own code. For ViTs: means and covariances of features of unit length,
no power, g1 = 1 and g2 = 0, both 10 on ImageNet-R. For ConvNets (``unit_statistics=false``): covariances of
the features' square roots as long as they are, shrunk twice with g1 = g2 = 1, and distances, at unit length,
of square roots from those of the classes' means. With far fewer images a class than the width of the
features, ``shared`` or a g1 near 10 does better.

Differs from the paper:
- A class with fewer than two different images gets the mean covariance of the others; if there are none, the
  distance is Euclidean (our choice).
- The power keeps the sign, so that it also takes the features of a ViT, which may be negative (our choice).
- ``shared`` is one covariance within all classes (our choice); the paper's also holds what lies between the
  classes of a task.
- A tenth of the training images is held out for tuning: ``--set stream.validation_rate=0`` trains on all.
  Nothing is augmented and the classes come in their natural order, as the authors' for ViTs; for ConvNets
  theirs are shuffled (``--set stream.order=1993``), and they train the network on the first half of the
  classes.

Shapes: B images, C classes, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from clbench.learning.closed_form import ClosedForm, Rule
from clbench.learning.gaussians import Gaussians, PoweredGaussians, powered
from clbench.options import LATER
from clbench.strategies import register

JITTER = 1e-6  # added to a diagonal of ones, so that rounding makes no correlation matrix indefinite


@register("fecam", petl="linear")
@dataclass
class FeCAM(ClosedForm):
    """Minus the Mahalanobis distance to each class; nothing is trained."""

    part: ClassVar[str] = "gaussians"
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "convnet": {"power": 0.5, "other_shrinkage": 1.0, "shrinkages": 2, "unit_statistics": False},
        "transformer+split-imagenet-r": {"diagonal_shrinkage": 10.0, "other_shrinkage": 10.0},
    }

    shared: bool = False  # one covariance for all classes, D^2 numbers, not one each, C D^2
    power: Annotated[float, Field(gt=0, le=1)] = 1.0  # Tukey's lambda; 0.5 in the paper for ConvNets
    diagonal_shrinkage: Annotated[float, Field(ge=0)] = 1.0  # g1; more where a class has few images
    other_shrinkage: Annotated[float, Field(ge=0)] = 0.0  # g2, at most g1; 1 in the paper for ConvNets
    shrinkages: Annotated[int, Field(ge=0), LATER] = 1  # how often a covariance is shrunk
    unit_statistics: Annotated[bool, LATER] = (
        True  # learn from features of unit length; else as long as they are
    )

    def __post_init__(self) -> None:
        """Refuse what makes a covariance indefinite."""
        if self.other_shrinkage > self.diagonal_shrinkage:
            raise ValueError(
                f"other_shrinkage is {self.other_shrinkage}; at most diagonal_shrinkage,"
                f" {self.diagonal_shrinkage}, is allowed"
            )

    def begin(self, width: int) -> Gaussians | PoweredGaussians:
        """Keep a mean and a covariance for each class."""
        self.gaussians: Gaussians | PoweredGaussians = (
            Gaussians(width, is_shared=self.shared)
            if self.unit_statistics
            else PoweredGaussians(width, power=self.power, is_shared=self.shared)
        )
        return self.gaussians

    def prepared(self, feature_BD: Tensor) -> Tensor:
        """Bring the features nearer to normally distributed, and to unit length, where they are learnt so."""
        return self._seen(feature_BD) if self.unit_statistics else feature_BD.float()

    def rule(self) -> Rule:
        """Return minus the squared distances."""
        covariance_CDD = self.gaussians.covariances()
        for _ in range(self.shrinkages):
            covariance_CDD = shrunk(covariance_CDD, self.diagonal_shrinkage, self.other_shrinkage)
        factor_CDD = factors_of(correlations(covariance_CDD))
        mean_CD = self.gaussians.means.float()
        if not self.unit_statistics:
            mean_CD = self._seen(mean_CD)

        def scores(feature_BD: Tensor) -> Tensor:
            with torch.autocast(feature_BD.device.type, enabled=False):
                seen_BD = feature_BD if self.unit_statistics else self._seen(feature_BD)
                return -squared_distances(seen_BD, mean_CD, factor_CDD)

        return scores

    def _seen(self, feature_BD: Tensor) -> Tensor:
        """Return features as their distances are measured."""
        return F.normalize(powered(feature_BD.float(), self.power), dim=1)


@torch.no_grad()
def shrunk(covariance_CDD: Tensor, on_diagonal: float, off_diagonal: float) -> Tensor:
    """Return the covariances with multiples of their mean variance and mean covariance added."""
    width = covariance_CDD.shape[-1]
    identity_DD = torch.eye(width, device=covariance_CDD.device)
    trace_C = covariance_CDD.diagonal(dim1=1, dim2=2).sum(dim=1)
    others_C = covariance_CDD.sum(dim=(1, 2)) - trace_C
    variance_C = trace_C / width
    num_diagonal_C = covariance_CDD.diagonal(dim1=1, dim2=2).count_nonzero(dim=1)
    num_others_C = covariance_CDD.count_nonzero(dim=(1, 2)) - num_diagonal_C
    between_C = others_C / num_others_C.clamp_min(1)  # a channel that is always 0 does not count
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
