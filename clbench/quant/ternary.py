"""Store weights as -s, 0 or s.

F. Li, B. Liu et al., "Ternary Weight Networks", arXiv 1605.04711. With D = 0.7 mean|w|,

    s = mean of |w| over |w| > D,    w -> s sign(w) where |w| > D, and 0 elsewhere,

nearly what makes the squared error of normal or evenly spread weights least. The codes are 1, 2 and 3 of two
bits, and the zero point is 2.

Differs from the paper: a scale a row or a group, not a layer; and the weights are those that were learnt in
float, not learnt through their ternary form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clbench.quant import register
from clbench.quant.parts.grids import held, in_groups
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.weights_only import WeightsOnly

BITS = 2
ZERO = 2  # the code of 0
THRESHOLD = 0.7  # of the mean absolute weight


@register("ternary")
@dataclass(frozen=True)
class Ternary(WeightsOnly):
    """Weights only; needs no images."""

    def stored(self, matrix: Tensor) -> LowBitWeight:
        """Return the signs of the large weights, and their mean size."""
        groups = in_groups(matrix, self.group)
        sizes = groups.relative.abs()
        is_large = sizes > THRESHOLD * groups.mean(sizes)[..., None]
        kept = torch.where(is_large, sizes, 0).sum(dim=2) / is_large.sum(dim=2).clamp(min=1)
        scale = held(kept * groups.largest, groups.largest, self.scale_bits)
        codes = ZERO + groups.values.sign() * is_large
        return LowBitWeight.of(groups.joined(codes), scale, torch.full_like(scale, ZERO), BITS)
