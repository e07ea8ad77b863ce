"""Grow a linear classifier: one Linear layer a task, their outputs side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GrowingHead(nn.Module):
    """A classifier over all classes seen so far: features (B, D) to logits (B, classes seen)."""

    def __init__(self, width: int, std: float = 0.001) -> None:
        """Start without classes; ``std`` is the deviation of the weights drawn for new ones."""
        super().__init__()
        self.width = width
        self.std = std
        self.tasks = nn.ModuleList()

    @property
    def num_classes(self) -> int:
        """Number of classes seen so far."""
        return sum(head.out_features for head in self._heads())

    def grow(self, num_classes: int, generator: torch.Generator, device: torch.device) -> None:
        """Append a layer for new classes: weights N(0, std^2), zero bias."""
        with torch.device("meta"):  # nothing is drawn from a global generator
            head = nn.Linear(self.width, num_classes)
        head.to_empty(device="cpu")
        nn.init.normal_(head.weight, std=self.std, generator=generator)
        nn.init.zeros_(head.bias)
        self.tasks.append(head.to(device))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of every class seen."""
        return torch.cat([head(features) for head in self._heads()], dim=1)

    def _heads(self) -> list[nn.Linear]:
        return [head for head in self.tasks if isinstance(head, nn.Linear)]
