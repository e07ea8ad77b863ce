"""Make even grids of b bits, L = 2^b levels, out of the range of what is rounded.

    asymmetric:  s = (high - low) / (L - 1),      z = round(-low / s)
    symmetric:   s = largest / (L / 2 - 0.5),     z = L / 2

Asymmetric, a constant is its own grid: s is at least the larger end / 2^16, so that z stays an integer that a
float holds, and 1 where there is nothing but zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.uniform import Uniform

FARTHEST = 2.0**16  # of a zero point, in steps

# The axes along which values share a grid.
Axes = tuple[int, ...]
A_CHANNEL: Axes = (1,)  # of a weight (O, I)
A_HEAD: Axes = (0, 2, 3)  # of an operand (B, H, N, E)
ALL: Axes = ()


def from_extremes(values: Tensor, axes: Axes, bits: int) -> Uniform:
    """Return the asymmetric grid from the least to the greatest value."""
    return asymmetric(values.amin(axes, keepdim=bool(axes)), values.amax(axes, keepdim=bool(axes)), bits)


def from_largest(values: Tensor, axes: Axes, bits: int) -> Uniform:
    """Return the symmetric grid that ends at the largest magnitude."""
    return symmetric(symmetric_scale(values, axes, bits), bits)


def asymmetric(low: Tensor, high: Tensor, bits: int) -> Uniform:
    """Return the grid from ``low`` to ``high``."""
    least = torch.maximum(low.abs(), high.abs()) / FARTHEST
    scale = _positive(torch.maximum((high - low) / (2**bits - 1), least))
    return Uniform(bits, scale=scale, zero=torch.round(-low / scale))


def symmetric(scale: Tensor, bits: int) -> Uniform:
    """Return the grid of this scale around 0."""
    return Uniform(bits, scale=scale, zero=torch.full_like(scale, 2 ** (bits - 1)))


def symmetric_scale(values: Tensor, axes: Axes, bits: int) -> Tensor:
    """Return the scale with which a symmetric grid ends at the largest magnitude."""
    return _positive(values.abs().amax(axes, keepdim=bool(axes)) / (2 ** (bits - 1) - 0.5))


def low_bit_weight(weight: Tensor, grid: Uniform) -> LowBitWeight:
    """Return a weight (O, I) on a grid whose scales and zero points are (O, 1)."""
    return LowBitWeight.of(grid.codes(weight), grid.scale, grid.zero, grid.bits)


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, 1.0)
