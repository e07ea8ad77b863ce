"""Lay an even grid over each group of neighbours in a matrix's rows: a scale s and a zero point z.

A value is s (q - z) with a code q in 0..n, n = 2^b - 1. With l and h, a group's least and greatest value:

    asymmetric    s = (h - l) / n                  z = -l / s       both ends are codes
    symmetric     s = max|w| / (2^(b-1) - 1)       z = 2^(b-1)      0 is a code, and code 0 is not used
    midrise       s = 2 max|w| / n                 z = n / 2        0 is half-way between two codes
    one bit       s = 2 mean|w|                    z = 1/2          the nearest +-s / 2 to w in the square

The first three as in T-MAC (J. Wei et al., EuroSys 2025, arXiv 2407.00088), one bit as in XNOR-Net (M.
Rastegari et al., ECCV 2016, arXiv 1603.05279).

A scale is rounded to the type that it is held in, and what comes after it is computed with the rounded one. A
half-precision zero point tells codes apart up to 2048, so that a group of nearly equal values far from 0 gets
a coarser scale: they come out as exact as half precision. Where a layer has a scale beyond half precision, it
has float32 scales.

A group is of neighbours in a row. Where groups of the wanted width do not fill it, they are narrower, as even
as can be.

Shape letters: M rows, K columns, G groups a row, W columns of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Bits = Literal[1, 2, 3, 4, 8]
ScaleBits = Literal[16, 32]
GridName = Literal["asymmetric", "symmetric", "midrise"]
Grid = tuple[Tensor, Tensor]  # scales and zero points, (M, G) each

HELD_IN = {16: torch.float16, 32: torch.float32}


@dataclass(frozen=True)
class Groups:
    """A matrix (M, K), cut into groups."""

    values: Tensor  # (M, G, W); the last group is filled up with 0
    is_real: Tensor  # (G, W): which of them are the matrix's

    @property
    def low(self) -> Tensor:
        """The least value of each group, (M, G)."""
        return torch.where(self.is_real, self.values, torch.inf).amin(dim=2)

    @property
    def high(self) -> Tensor:
        """The greatest value of each group, (M, G)."""
        return torch.where(self.is_real, self.values, -torch.inf).amax(dim=2)

    @property
    def largest(self) -> Tensor:
        """The greatest absolute value of each group, (M, G)."""
        return self.values.abs().amax(dim=2)

    @property
    def relative(self) -> Tensor:
        """The values as shares of their group's greatest: sums of huge ones would be infinite."""
        return self.values / _not_zero(self.largest)[..., None]

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean (M, G) of what stands where the values are, (M, G, W)."""
        return torch.where(self.is_real, values, 0).sum(dim=2) / self.is_real.sum(dim=1)

    def joined(self, values: Tensor) -> Tensor:
        """Return what stands where the values are as a matrix (M, K)."""
        return values.flatten(1)[:, : int(self.is_real.sum())]


def in_groups(matrix: Tensor, group: int) -> Groups:
    """Cut a matrix into the fewest groups of at most ``group`` columns, as even as can be; 0: whole rows."""
    rows, columns = matrix.shape
    groups = -(-columns // group) if group else 1
    width = -(-columns // groups)
    filled = F.pad(matrix, (0, groups * width - columns))
    is_real = torch.arange(groups * width, device=matrix.device) < columns
    return Groups(filled.view(rows, groups, width), is_real.view(groups, width))


def grid_of(groups: Groups, bits: int, name: GridName, scale_bits: int, share: float = 1.0) -> Grid:
    """Return each group's grid, of ``share`` times its least and greatest values (or their mean size)."""
    if bits == 1:
        return _one_bit(groups, scale_bits, share)
    return GRIDS[name](share * groups.low, share * groups.high, bits, scale_bits)


def codes_of(groups: Groups, grid: Grid, bits: int) -> Tensor:
    """Return the nearest codes (M, G, W)."""
    scale, zero = (held.float()[..., None] for held in grid)
    return codes_at(places_of(groups.values, scale, zero), bits)


def places_of(values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return where values lie on a grid, w / s + z; at z where s is 0."""
    return values / _not_zero(scale) + zero


def codes_at(places: Tensor, bits: int) -> Tensor:
    """Return the code next to each place; a tie goes to the even one."""
    return torch.round(places).clamp(0, 2**bits - 1)


def held(scale: Tensor, largest: Tensor, scale_bits: int) -> Tensor:
    """Return scales as they are held, no finer than zero points of that type can place ``largest``.

    0 where ``largest``, the greatest absolute value, is 0.
    """
    kind = HELD_IN[scale_bits]
    limits = torch.finfo(kind)
    finest = (largest * (limits.eps / 2)).clamp(min=limits.tiny * limits.eps)
    scale = torch.where(largest == 0, 0, torch.maximum(scale, finest))
    return scale.to(torch.float32 if bool((scale > limits.max).any()) else kind)


def _asymmetric(low: Tensor, high: Tensor, bits: int, scale_bits: int) -> Grid:
    last = 2**bits - 1
    scale = held(high / last - low / last, _largest(low, high), scale_bits)
    return scale, torch.where(scale == 0, 0, -low / scale.float()).to(scale.dtype)


def _symmetric(low: Tensor, high: Tensor, bits: int, scale_bits: int) -> Grid:
    half, largest = 2 ** (bits - 1), _largest(low, high)
    scale = held(largest / (half - 1), largest, scale_bits)
    return scale, torch.full_like(scale, half)


def _midrise(low: Tensor, high: Tensor, bits: int, scale_bits: int) -> Grid:
    last, largest = 2**bits - 1, _largest(low, high)
    scale = held(largest / (last / 2), largest, scale_bits)
    return scale, torch.full_like(scale, last / 2)


def _one_bit(groups: Groups, scale_bits: int, share: float) -> Grid:
    scale = held(2 * share * groups.mean(groups.relative.abs()) * groups.largest, groups.largest, scale_bits)
    return scale, torch.full_like(scale, 0.5)


def _not_zero(divisor: Tensor) -> Tensor:
    return torch.where(divisor == 0, 1, divisor)


def _largest(low: Tensor, high: Tensor) -> Tensor:
    return torch.maximum(low.abs(), high.abs())


GRIDS: dict[GridName, Callable[[Tensor, Tensor, int, int], Grid]] = {
    "asymmetric": _asymmetric,
    "symmetric": _symmetric,
    "midrise": _midrise,
}
