"""Round each token to a grid of its own, which is laid over it when it comes: nothing is chosen beforehand.

A token is what lies along the last axis. With its least and greatest values, l <= 0 <= h (0 is counted in):

    symmetric     s = 2 max|x| / n          z = 2^(b-1)
    asymmetric    s = (h - l) / n           z = round(-l / s), in 0..n

and c = clamp(round(x / s) + z, 0, n), n = 2^b - 1. No s is below ``least``. What a code stands for depends on
its token, so codes alone cannot be decoded.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from clbench.quant.parts.rounding import Rounding


class PerToken(Rounding):
    """A grid a token."""

    is_fixed: ClassVar[bool] = False

    least: Tensor

    def __init__(self, bits: int, *, least: Tensor) -> None:
        """Hold the least scale."""
        super().__init__(bits, least=least)

    @abstractmethod
    def grid(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scale and the zero point of each token, (..., 1)."""

    def codes(self, values: Tensor) -> Tensor:
        """Return the codes, int64."""
        return self._codes(values, *self.grid(values)).to(torch.int64)

    def decoded(self, codes: Tensor) -> Tensor:
        """Refuse: the tokens' grids are gone."""
        raise TypeError("codes of tokens with grids of their own cannot be decoded without them")

    def rounded(self, values: Tensor) -> Tensor:
        """Return what each token's codes stand for on its grid."""
        scale, zero = self.grid(values)
        return (self._codes(values, scale, zero) - zero) * scale

    def _codes(self, values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return torch.round(values * (1 / scale)).add_(zero).clamp_(0, self.num_levels - 1)


class SymmetricPerToken(PerToken):
    """0 in the middle."""

    def grid(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return s and 2^(b-1)."""
        largest = values.abs().amax(dim=-1, keepdim=True)
        scale = torch.maximum(largest / ((self.num_levels - 1) / 2), self.least)
        return scale, torch.full_like(scale, self.num_levels // 2)


class AsymmetricPerToken(PerToken):
    """0 wherever it lies between the ends."""

    def grid(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return s and z."""
        low = values.amin(dim=-1, keepdim=True).clamp(max=0)
        high = values.amax(dim=-1, keepdim=True).clamp(min=0)
        scale = torch.maximum((high - low) / (self.num_levels - 1), self.least)
        return scale, torch.round(-low / scale).clamp(0, self.num_levels - 1)
