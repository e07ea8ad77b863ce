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
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from clbench.learning.closed_form import ClosedForm, Rule
from clbench.learning.gaussians import Gaussians
from clbench.strategies import register


@register("slda", petl="linear")
@dataclass
class SLDA(ClosedForm):
    """Class means and one covariance within all classes; nothing is trained."""

    gives_probabilities: ClassVar[bool] = True
    part: ClassVar[str] = "gaussians"

    shrinkage: Annotated[float, Field(gt=0, le=1)] = 1e-4  # e: share of the identity in the covariance

    def begin(self, width: int) -> Gaussians:
        """Keep a mean for each class and one covariance."""
        self.gaussians = Gaussians(width, is_shared=True)
        return self.gaussians

    def rule(self) -> Rule:
        """Return the posterior of each class, all being equally likely beforehand."""
        weight_DC, bias_C = discriminants(self.gaussians, self.shrinkage)

        def posteriors(feature_BD: Tensor) -> Tensor:
            with torch.autocast(feature_BD.device.type, enabled=False):
                return torch.softmax(feature_BD.float() @ weight_DC + bias_C, dim=1)

        return posteriors


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
