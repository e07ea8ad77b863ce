"""Search the even grids of an operand: of each row of a weight, of each head, or of a layer's whole input.

Candidates as in AdaLog (Z. Wu et al., ECCV 2024, arXiv 2407.12951): scales from (the 0.9-quantile less the
0.1-quantile) / (L - 1) to (the largest value less the smallest) / (L - 1), with each of a few zero points.

Shape letters: ... batches (groups, images, heads), R rows and I columns of an operand, C candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clbench.quant.parts.fpcs import Candidates, best, uniform_candidates
from clbench.quant.parts.output_error import OutputError
from clbench.quant.parts.own_error import OwnError
from clbench.quant.parts.searched import Effort, Searched
from clbench.quant.parts.uniform import Uniform

AROUND = 8  # scales around each pair that is kept
NUM_ZEROS = 16  # zero points that are tried, at most
SMALLEST = 1e-8  # scale, where all values are the same
SMALLEST_OF_INPUTS = 1e-4  # as in the published code


class UniformOperand(Searched):
    """An operand on even grids; they start as they change the operand itself least.

    A granule is what shares a grid.
    """

    def __init__(
        self,
        values: Tensor,
        bits: int,
        effort: Effort,
        granules: tuple[int, ...],
        *,
        is_input: bool = False,
    ) -> None:
        """``granules`` are the sizes of the axes but the last one, 1 where a grid is shared along it.

        The input of a layer has more zero points to choose from.
        """
        super().__init__(values, bits, effort)
        self.granules = granules
        own = OwnError(_by_granule(values, granules))
        self.candidates = _candidates(own, bits, effort, is_input=is_input)
        self.scale, self.zero = best(
            self.candidates,
            lambda scale, zero: own.uniform(scale, zero, bits=bits),
            steps=effort.steps,
            around=AROUND,
        )

    @property
    def rounded(self) -> Tensor:
        """The operand rounded."""
        return self._grids().rounded(self.values)

    def search(self, other: Tensor, other_rounded: Tensor) -> None:
        """Choose scales and zero points."""
        output = OutputError(self.values, other, other_rounded)

        def error(scale: Tensor, zero: Tensor) -> Tensor:
            scales, zeros = (each.reshape(-1, *self.granules) for each in (scale, zero))
            errors = output.of(self.values, self._round, scales, zeros, self.effort.num_values)
            return errors.view(scale.shape)

        self.scale, self.zero = best(self.candidates, error, steps=self.effort.steps, around=AROUND)

    def stored(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes (..., R, I), and the scales and zero points of the granules."""
        return self._grids().codes(self.values), self.scale, self.zero

    def rounding(self) -> Uniform:
        """Return what was found, for values with the operand's axes, or for any where all share a grid."""
        if self.scale.numel() > 1:
            return self._grids()
        return Uniform(self.bits, scale=self.scale.view(()), zero=self.zero.view(()))

    def _grids(self) -> Uniform:
        shape = (*self.granules, 1)
        return Uniform(self.bits, scale=self.scale.reshape(shape), zero=self.zero.reshape(shape))

    def _round(self, values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return Uniform(self.bits, scale=scale, zero=zero).rounded(values)


def _candidates(own: OwnError, bits: int, effort: Effort, *, is_input: bool) -> Candidates:
    num_levels = 2**bits
    low, high = own.quantile(0.0).clamp(max=0), own.quantile(1.0).clamp(min=0)  # zero has a code
    middle = torch.round(-low / (high - low).clamp(min=SMALLEST) * (num_levels - 1))
    return uniform_candidates(
        own.quantile(0.9) - own.quantile(0.1),
        high - low,
        middle,
        bits=bits,
        num=effort.candidates,
        num_zeros=min(NUM_ZEROS, num_levels if is_input else num_levels // 2),
        smallest=SMALLEST_OF_INPUTS if is_input else SMALLEST,
    )


def _by_granule(values: Tensor, granules: tuple[int, ...]) -> Tensor:
    """Return values (..., I) as (granules, values that share one)."""
    kept = [axis for axis, size in enumerate(granules) if size > 1]
    others = [axis for axis in range(values.ndim) if axis not in kept]
    return values.permute(*kept, *others).reshape(math.prod(granules), -1)
