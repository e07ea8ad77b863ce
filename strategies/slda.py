"""Classify frozen features by linear discriminant analysis, learnt as images come in (deep SLDA).

T. L. Hayes, C. Kanan, "Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis", CVPR
Workshops 2020, arXiv 1909.01520. Kept are a mean for each class and one covariance for all; with the
precision ``P = ((1 - e) Covariance + e I)^-1`` a class's score is ``mean' P x - mean' P mean / 2``.

As in the authors' own code, whose defaults these are, the covariance of the first task, their base set, is
shrunk by "oracle approximating shrinkage" (Y. Chen, A. Wiesel, Y. C. Eldar, A. O. Hero, 2010, arXiv
0907.4698) before others are added to it: with about one image a dimension an empirical covariance is nearly
singular, e much too small to mend that, and accuracy falls far below that of class means.

Differs from the paper:
- The covariance is that within classes over all images so far, exactly, so the result depends neither on the
  order of the images nor on their batches; with ``first_covariance=empirical`` nor on the split into tasks.
  The paper's running estimate counts the first image of a class as a deviation from zero.
- A tenth of the training images is held out for tuning: ``--set stream.validation_rate=0`` trains on all. The
  classes come in their natural order; the authors' ImageNet is shuffled.

Shapes: B images, C classes, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from clbench.data.inputs import Feed
from clbench.learning.closed_form import ClosedForm, Rule
from clbench.learning.gaussians import Gaussians
from clbench.options import LATER
from clbench.strategies import Task, register


@register("slda", petl="linear")
@dataclass
class SLDA(ClosedForm):
    """Class means and one covariance within all classes; nothing is trained."""

    gives_probabilities: ClassVar[bool] = True
    part: ClassVar[str] = "gaussians"

    shrinkage: Annotated[float, Field(gt=0, le=1)] = 1e-4  # e: share of the identity in the covariance

    first_covariance: Annotated[Literal["oas", "empirical"], LATER] = (
        "oas"  # of the first task: shrunk by as much as its images are too few, or as it is
    )

    def end_task(self, task: Task, images: Feed) -> None:
        """Add the task's images to the statistics; shrink the covariance of the first."""
        super().end_task(task, images)
        self.shrink_first(task.index)

    def shrink_first(self, task: int) -> None:
        """Shrink the covariance if it is that of the first task, as much as its images are too few."""
        if task == 0 and self.first_covariance == "oas":
            (scatter_DD,), num_images = self.gaussians.scatters, int(self.gaussians.counts.sum())
            scatter_DD.copy_(num_images * oracle_approximating(scatter_DD / num_images, num_images))

    def begin(self, width: int) -> Gaussians:
        """Keep a mean for each class and one covariance."""
        self.gaussians = Gaussians(width, is_shared=True)
        return self.gaussians

    def rule(self) -> Rule:
        """Return the posterior of each class, all being equally likely beforehand."""
        weight_DC, bias_C = (each.float() for each in self.gaussians.discriminants(self.shrinkage))

        def posteriors(feature_BD: Tensor) -> Tensor:
            with torch.autocast(feature_BD.device.type, enabled=False):
                return torch.softmax(feature_BD.float() @ weight_DC + bias_C, dim=1)

        return posteriors


@torch.no_grad()
def oracle_approximating(covariance_DD: Tensor, num_images: int) -> Tensor:
    """Return a covariance (of deviations from known means) mixed with its variance in all directions."""
    covariance = covariance_DD.double()
    width = len(covariance)
    variance, mean_square = covariance.trace() / width, covariance.square().mean()
    spread = (num_images + 1) * (mean_square - variance.square() / width)
    share = ((mean_square + variance.square()) / spread).clamp(max=1) if spread > 0 else spread.new_ones(())
    identity_DD = torch.eye(width, dtype=covariance.dtype, device=covariance.device)
    return ((1 - share) * covariance + share * variance * identity_DD).to(covariance_DD.dtype)
