"""Keep the mean feature of each class, as a sum and a count: exact whatever the order of the images."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from clbench.kinds import HasKinds
from clbench.learning.losses.precision import cosines


class Prototypes(HasKinds):
    """Sums (C, D) of features in double precision, and counts (C,)."""

    kinds: ClassVar[dict[str, str]] = {"": "prototypes"}

    sums: Tensor
    counts: Tensor

    def __init__(self, width: int) -> None:
        """Start without classes."""
        super().__init__()
        self.register_buffer("sums", torch.zeros(0, width, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))

    @property
    def means(self) -> Tensor:
        """The mean features (C, D), float32; zero for a class without images."""
        return (self.sums / self.counts.clamp_min(1)[:, None]).float()

    def grow(self, num_classes: int, device: torch.device) -> None:
        """Make room for new classes."""
        width = self.sums.shape[1]
        self.sums = torch.cat([self.sums.to(device), self.sums.new_zeros(num_classes, width, device=device)])
        self.counts = torch.cat([self.counts.to(device), self.counts.new_zeros(num_classes, device=device)])

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add features (B, D) to the sums of their classes."""
        self.sums.index_add_(0, labels, features.to(self.sums.dtype))
        self.counts += torch.bincount(labels, minlength=len(self.counts))

    def cosines(self, features: Tensor) -> Tensor:
        """Return the cosine between each of the features (B, D) and each mean: (B, C)."""
        return cosines(features, self.means)
