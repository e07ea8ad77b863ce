"""Make classifiers: one that grows by a layer a task, and one by cosines."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from clbench.kinds import HasKinds
from clbench.learning.losses.precision import cosines
from clbench.petl.parts.initialise import kaiming_uniform
from clbench.quant.learnt_low_bit import FULL, LearntLowBitLinear


class GrowingHead(HasKinds):
    """A classifier over all classes seen so far: features (B, D) to logits (B, classes seen).

    With fewer than 32 bits a weight each task's layer is a ``LearntLowBitLinear``, which has no bias, as in
    the Bi-head of S. Jie et al. (ICCV 2023, arXiv 2307.16867).
    """

    kinds: ClassVar[dict[str, str]] = {"": "head"}

    def __init__(self, width: int, std: float = 0.001, bits: int = FULL) -> None:
        """Start without classes; ``std`` is the deviation of the weights drawn for new ones at 32 bits."""
        super().__init__()
        self.width = width
        self.std = std
        self.bits = bits
        self.num_classes = 0  # seen so far
        self.tasks = nn.ModuleList()

    def grow(self, num_classes: int, generator: torch.Generator, device: torch.device) -> None:
        """Append a layer for new classes, its weights drawn from ``generator``; none for no class."""
        if num_classes == 0:
            return
        head = (
            self._linear(num_classes, generator)
            if self.bits == FULL
            else self._low_bit(num_classes, generator)
        )
        self.tasks.append(head.to(device))
        self.num_classes += num_classes

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of every class seen."""
        return torch.cat([head(features) for head in self.tasks], dim=1)

    def _linear(self, num_classes: int, generator: torch.Generator) -> nn.Linear:
        """Return a layer of weights N(0, std^2) and zero bias."""
        with torch.device("meta"):  # nothing is drawn from a global generator
            head = nn.Linear(self.width, num_classes)
        head.to_empty(device="cpu")
        nn.init.normal_(head.weight, std=self.std, generator=generator)
        nn.init.zeros_(head.bias)
        return head

    def _low_bit(self, num_classes: int, generator: torch.Generator) -> LearntLowBitLinear:
        """Return a layer of weights drawn as torch does by default, U(-1/sqrt(D), 1/sqrt(D)), and no bias."""
        head = LearntLowBitLinear(self.width, num_classes, self.bits)
        kaiming_uniform(head.weight, generator)
        return head


class CosineHead(HasKinds):
    """A classifier by scaled cosines: features (B, D) to logits (B, C)."""

    kinds: ClassVar[dict[str, str]] = {"": "head"}

    def __init__(self, width: int, num_classes: int, generator: torch.Generator, scale: float = 1.0) -> None:
        """Draw a vector a class from U(-1/sqrt(D), 1/sqrt(D)); the scale of the cosines is learnt, too."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, width))
        self.scale = nn.Parameter(torch.tensor(scale))
        kaiming_uniform(self.weight, generator)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        return self.scale * cosines(features, self.weight)
