"""Estimate a normal distribution for each class: its mean, and a covariance of its own or one for all.

What is kept are sums, so the estimate depends neither on the order of the images nor on their batches, but
for rounding. Shapes: B images, C classes, D width, R deviations.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from clbench.kinds import HasKinds
from clbench.learning.prototypes import Prototypes
from clbench.outside.finite import refuse_any_not_finite


class Gaussians(HasKinds):
    """Counts (C,), means (C, D) in double precision, and scatters (C or 1, D, D)."""

    kinds: ClassVar[dict[str, str]] = {"": "prototypes", "scatters": "covariances"}

    counts: Tensor
    means: Tensor
    scatters: Tensor  # sums of (x - mean)(x - mean)' over the images of a class, or of all classes

    def __init__(self, width: int, *, is_shared: bool) -> None:
        """Start without classes; ``is_shared`` keeps one covariance within all classes together."""
        super().__init__()
        self.is_shared = is_shared
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("means", torch.zeros(0, width, dtype=torch.float64))
        self.register_buffer("scatters", torch.zeros(int(is_shared), width, width))

    def grow(self, num_classes: int, device: torch.device) -> None:
        """Make room for new classes."""
        self.to(device)
        width = self.means.shape[1]
        self.counts = torch.cat([self.counts, self.counts.new_zeros(num_classes)])
        self.means = torch.cat([self.means, self.means.new_zeros(num_classes, width)])
        if not self.is_shared:
            self.scatters = torch.cat([self.scatters, self.scatters.new_zeros(num_classes, width, width)])

    @torch.no_grad()
    def add(self, feature_BD: Tensor, labels: Tensor) -> None:
        """Learn from features and their labels (B,): one rank update a scatter."""
        feature_BD = feature_BD.to(self.means.dtype)
        added_C = torch.bincount(labels, minlength=len(self.counts))
        sum_CD = torch.zeros_like(self.means).index_add_(0, labels, feature_BD)
        mean_CD = sum_CD / added_C.clamp_min(1)[:, None]
        # Chan et al. (1979): two scatters join as S1 + S2 + n1 n2 / (n1 + n2) d d', d between the two means.
        total_C = self.counts + added_C
        weight_C = self.counts * added_C / total_C.clamp_min(1)
        met = added_C.nonzero()[:, 0]
        step_CD = (mean_CD - self.means) * weight_C.sqrt()[:, None]
        deviation_RD = torch.cat([feature_BD - mean_CD[labels], step_CD[met]])
        self._scatter(deviation_RD, torch.cat([labels, met]), met)
        self.means += (mean_CD - self.means) * (added_C / total_C.clamp_min(1))[:, None]
        self.counts += added_C

    def covariances(self) -> Tensor:
        """Return the covariances (C, D, D), each over n - 1, or the shared one (1, D, D), over all images.

        That of a class with fewer than two images is zero. NotFiniteError if what was added was not finite.
        """
        sums = {"means": self.means, "scatters": self.scatters}
        refuse_any_not_finite(sums, "the statistics of the classes")
        divisor = self.counts.sum()[None] if self.is_shared else self.counts - 1
        return self.scatters / divisor.clamp_min(1)[:, None, None]

    @torch.no_grad()
    def discriminants(
        self, shrinkage: float, *, least_variance: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return weights (D, C) and biases (C,), double, of linear discriminant analysis, all classes alike.

        The logits of features x are mean' P x - mean' P mean / 2, P the inverse of the shared covariance with
        a share ``shrinkage``, in (0, 1], of the identity: as it is, or where ``least_variance`` is given
        times the mean variance, or that where it is larger. NotFiniteError as for ``covariances``.
        """
        mean_CD, covariance_DD = self.means, self.covariances()[0].to(self.means.dtype)
        target_DD = torch.eye(len(covariance_DD), dtype=mean_CD.dtype, device=mean_CD.device)
        if least_variance is not None:
            target_DD *= covariance_DD.diagonal().mean().clamp_min(least_variance)
        shrunk_DD = (1 - shrinkage) * covariance_DD + shrinkage * target_DD
        weight_DC = torch.linalg.solve(shrunk_DD, mean_CD.T)
        return weight_DC, -(mean_CD * weight_DC.T).sum(dim=1) / 2

    def _scatter(self, deviation_RD: Tensor, classes: Tensor, met: Tensor) -> None:
        if self.is_shared:
            self.scatters[0] += (deviation_RD.T @ deviation_RD).to(self.scatters.dtype)
            return
        for number in met.tolist():
            own_RD = deviation_RD[classes == number]
            self.scatters[number] += (own_RD.T @ own_RD).to(self.scatters.dtype)


class PoweredGaussians(HasKinds):
    """Means of features as they are, and covariances of their powers."""

    def __init__(self, width: int, *, power: float, is_shared: bool) -> None:
        """Start without classes; ``is_shared`` keeps one covariance within all classes together."""
        super().__init__()
        self.power = power
        self.prototypes = Prototypes(width)
        self.gaussians = Gaussians(width, is_shared=is_shared)

    @property
    def means(self) -> Tensor:
        """The mean features (C, D), float32."""
        return self.prototypes.means

    def grow(self, num_classes: int, device: torch.device) -> None:
        """Make room for new classes."""
        self.prototypes.grow(num_classes, device)
        self.gaussians.grow(num_classes, device)

    def add(self, feature_BD: Tensor, labels: Tensor) -> None:
        """Learn from features and their labels (B,)."""
        self.prototypes.add(feature_BD, labels)
        self.gaussians.add(powered(feature_BD, self.power), labels)

    def covariances(self) -> Tensor:
        """Return the covariances (C, D, D) of the powers, or the shared one (1, D, D)."""
        return self.gaussians.covariances()


def powered(feature_BD: Tensor, power: float) -> Tensor:
    """Return the power of each feature's size, with its sign."""
    return feature_BD.sign() * feature_BD.abs() ** power
