"""Round to an even grid: c = clamp(round(x / s) + z, 0, L - 1), and back (c - z) s.

Ties go to the even number. z is an integer, held as a float.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.quant.parts.rounding import Rounding


class Uniform(Rounding):
    """A grid with a scale s > 0 and an integer zero point z, of shapes that broadcast to the values'."""

    scale: Tensor
    zero: Tensor

    def __init__(self, bits: int, *, scale: Tensor, zero: Tensor) -> None:
        """Hold scale and zero point."""
        super().__init__(bits, scale=scale, zero=zero)

    def codes(self, values: Tensor) -> Tensor:
        """Return the codes, int64."""
        return self._places(values).to(torch.int64)

    def decoded(self, codes: Tensor) -> Tensor:
        """Return (c - z) s."""
        return (codes - self.zero) * self.scale

    def rounded(self, values: Tensor) -> Tensor:
        """Return the same without integers in between."""
        return self._places(values).sub_(self.zero).mul_(self.scale)

    def reaches(self, values: Tensor) -> Tensor:
        """Tell which values lie on the grid's stretch."""
        places = values / self.scale + self.zero
        return (places >= -0.5) & (places <= self.num_levels - 0.5)

    def _places(self, values: Tensor) -> Tensor:
        whole = torch.round(values / self.scale).add_(self.zero)
        return whole.clamp_(0, self.num_levels - 1)
