"""Store each weight as the code of its cell in a codebook for normal values.

S. Jie, H. Wang, Z.-H. Deng, "Revisiting the Parameter Efficiency of Adapters from the Perspective of
Precision Redundancy", ICCV 2023, arXiv 2307.16867: the quantiser of its adapters, whose codebook
``parts/gauss_codebook.py`` has. With mean mu and deviation sigma (n - 1) of a row's or a group's weights,

    w -> sigma Q((w - mu) / sigma) + mu = s (c_q - z),    s = sigma,  z = -mu / sigma.

The outermost codes are 0.7, 1.3, 2.3 and 2.8 sigma from mu at 1, 2, 4 and 8 bits, and what lies beyond is cut
off: where a few weights are much larger than the rest, other quantisers are better from 4 bits on.

Differs from the paper: it quantises adapters while they are trained, here weights that were learnt are
quantised once; statistics are those of a row or a group (``over=tensor``: of the whole weight, as there, held
once a row); nothing is added to sigma where it divides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clbench.quant import register
from clbench.quant.parts.gauss_codebook import borders, codebook
from clbench.quant.parts.grids import Groups, held, in_groups, places_of
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.weights_only import WeightsOnly


@register("gauss-median")
@dataclass(frozen=True)
class GaussMedian(WeightsOnly):
    """Weights only; needs no images."""

    bits: Literal[1, 2, 4, 8] = 4  # of a weight
    over: Literal["row", "tensor"] = "row"  # whose mean and deviation; row: each of its groups', if any

    def __post_init__(self) -> None:
        """Refuse groups of what is one."""
        if self.over == "tensor" and self.group:
            raise ValueError(f"group={self.group} is for over=row; over=tensor goes with group=0")

    def stored(self, matrix: Tensor) -> LowBitWeight:
        """Return the codes of the cells, and the statistics."""
        groups = in_groups(matrix, self.group)
        mean, deviation = _statistics(in_groups(matrix.view(1, -1), 0) if self.over == "tensor" else groups)
        shape = groups.largest.shape
        scale = held(deviation, torch.maximum(mean.abs(), deviation), self.scale_bits).expand(shape)
        zero = torch.where(scale == 0, 0, -mean / scale.float()).to(scale.dtype)
        places = places_of(groups.values, scale.float()[..., None], zero.float()[..., None])
        cells, levels = matrix.new_tensor(borders(self.bits)), matrix.new_tensor(codebook(self.bits))
        codes = torch.bucketize(places, cells, right=True)
        return LowBitWeight.of(groups.joined(codes), scale.contiguous(), zero, self.bits, levels)


def _statistics(groups: Groups) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each group, (M, G)."""
    mean = groups.mean(groups.relative)
    num_values = groups.is_real.sum(dim=1)
    spread = groups.mean((groups.relative - mean[..., None]) ** 2)
    deviation = (spread * (num_values / (num_values - 1).clamp(min=1))).sqrt()
    return mean * groups.largest, deviation * groups.largest
