"""Round with two even grids, one for either kind of values: one bit of a code says which.

Z. Yuan, C. Xue, Y. Chen, Q. Wu, G. Sun, "PTQ4ViT: Post-Training Quantization for Vision Transformers with
Twin Uniform Quantization", ECCV 2022, arXiv 2111.12293. With h = L / 2 = 2^(b - 1):

- after a GELU:     x < 0 on the steps -h..0 of 0.16997 / h, the rest on the steps 0..h - 1 of a scale s;
- after a softmax:  x <= p on the steps 0..h - 1 of p / (h - 1), the rest on those of 1 / (h - 1).

Each value uses exactly one of the two, as the paper says. (The published code for the softmax adds what both
make of a value, which lifts it by about p where it is above p.) A value that is p belongs to the finer grid
here, whose last level p is, so that what is rounded stays what it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.quant.parts.rounding import Rounding

LEAST_OF_GELU = 0.16997  # the magnitude of its minimum


class TwinGelu(Rounding):
    """A scale s > 0 for positive values; the one for negative values follows from the bits.

    Codes are steps + h: below h those of negative values, of which -0.16997 is the first.
    """

    scale: Tensor

    def __init__(self, bits: int, *, scale: Tensor) -> None:
        """Hold the positive values' scale."""
        super().__init__(bits, scale=scale)

    def codes(self, values: Tensor) -> Tensor:
        """Return the codes, int64."""
        return (self._steps(values, values < 0) + self.num_levels // 2).to(torch.int64)

    def decoded(self, codes: Tensor) -> Tensor:
        """Return the steps times their scale."""
        steps = codes - self.num_levels // 2
        return steps * self._scales(steps < 0)

    def rounded(self, values: Tensor) -> Tensor:
        """Return the same without integers in between."""
        is_negative = values < 0
        return self._steps(values, is_negative).mul_(self._scales(is_negative))

    def reaches(self, values: Tensor) -> Tensor:
        """Tell which values lie on the stretch of the grids."""
        places = values / self._scales(values < 0)
        half = self.num_levels // 2
        return (places >= -half - 0.5) & (places <= half - 0.5)

    def _steps(self, values: Tensor, is_negative: Tensor) -> Tensor:
        half = self.num_levels // 2
        return torch.round(values / self._scales(is_negative)).clamp_(-half, half - 1)

    def _scales(self, is_negative: Tensor) -> Tensor:
        return torch.where(is_negative, LEAST_OF_GELU / (self.num_levels // 2), self.scale)


class TwinSoftmax(Rounding):
    """A split point p in (0, 1]. Codes are steps, + h for the coarser grid."""

    split: Tensor

    def __init__(self, bits: int, *, split: Tensor) -> None:
        """Hold the split point."""
        super().__init__(bits, split=split)

    def codes(self, values: Tensor) -> Tensor:
        """Return the codes, int64."""
        is_coarse = values > self.split
        return (self._steps(values, is_coarse) + is_coarse * (self.num_levels // 2)).to(torch.int64)

    def decoded(self, codes: Tensor) -> Tensor:
        """Return the steps times their scale."""
        half = self.num_levels // 2
        return (codes % half) * self._scales(codes >= half)

    def rounded(self, values: Tensor) -> Tensor:
        """Return the same without integers in between."""
        is_coarse = values > self.split
        return self._steps(values, is_coarse).mul_(self._scales(is_coarse))

    def reaches(self, values: Tensor) -> Tensor:
        """Tell which values lie on the stretch of the grids."""
        beyond = 0.5 / (self.num_levels // 2 - 1)
        return (values >= -beyond * self.split) & (values <= 1 + beyond)

    def _steps(self, values: Tensor, is_coarse: Tensor) -> Tensor:
        last = self.num_levels // 2 - 1
        return torch.round(values / self._scales(is_coarse)).clamp_(0, last)

    def _scales(self, is_coarse: Tensor) -> Tensor:
        return torch.where(is_coarse, 1.0, self.split) / (self.num_levels // 2 - 1)
