"""Tell the squared error of even grids on the values themselves: value by value, or from running sums.

Between two neighbouring borders of a grid all values become the same v, so that a grid of L levels needs
L - 1 look-ups among the sorted values however many there are:

    sum (x - v)^2 = sum x^2 - 2 v sum x + v^2 n    over the values between the borders.

A look-up costs as much as some dozens of values.

Shape letters: C candidates, V values of a granule, L levels; ... granules.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.quant.parts.quantiles import quantile
from clbench.quant.parts.uniform import Uniform

VALUES_OF_A_LOOK_UP = 32


class OwnError:
    """Values (..., V) of granules, in order."""

    def __init__(self, values: Tensor) -> None:
        """Sort the values and add them up."""
        self.ordered = values.contiguous().sort(dim=-1).values
        wide = self.ordered.double()
        self.sums = F.pad(wide.cumsum(dim=-1), (1, 0))
        self.squares = wide.square().sum(dim=-1)

    def quantile(self, share: float) -> Tensor:
        """Return the quantile (...) of each granule, between two values where it lies between them."""
        return quantile(self.ordered, share)[..., 0]

    def uniform(self, scale: Tensor, zero: Tensor, *, bits: int) -> Tensor:
        """Return the mean squared errors (C, ...) of scales and zero points (C, ...)."""
        by_value = self.ordered.shape[-1] < VALUES_OF_A_LOOK_UP * 2**bits
        of_one = self._by_value if by_value else self._by_sums
        return torch.stack([of_one(*pair, bits) for pair in zip(scale, zero, strict=True)])

    def _by_value(self, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        grids = Uniform(bits, scale=scale[..., None], zero=zero[..., None])
        return grids.rounded(self.ordered).sub_(self.ordered).square_().mean(dim=-1).double()

    def _by_sums(self, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        scale, zero = scale.double()[..., None], zero.double()[..., None]
        levels = (torch.arange(2**bits, device=scale.device) - zero) * scale
        ends = torch.searchsorted(self.ordered, (levels[..., 1:] - scale / 2).float())
        num_values = self.ordered.shape[-1]
        ends = F.pad(F.pad(ends, (1, 0)), (0, 1), value=num_values)
        sums = self.sums.gather(-1, ends).diff(dim=-1)
        error = self.squares + (levels * (levels * ends.diff(dim=-1) - 2 * sums)).sum(dim=-1)
        return error / num_values
