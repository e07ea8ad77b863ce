"""Round each weight to the nearest of 2^b evenly spaced values; activations stay in float.

What T-MAC (J. Wei et al., EuroSys 2025, arXiv 2407.00088) computes with; ``parts/grids.py`` has the grids'
formulas. One bit is always +-mean|w|, whatever the grid. Bits a weight: b + 2 e / G with e = ``scale_bits``
and groups of G; the codes of a row are filled up to whole bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clbench.quant import register
from clbench.quant.parts.grids import Bits, GridName, codes_of, grid_of, in_groups
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.weights_only import WeightsOnly


@register("rtn")
@dataclass(frozen=True)
class RoundToNearest(WeightsOnly):
    """Weights only; needs no images."""

    bits: Bits = 4  # of a weight
    grid: GridName = "asymmetric"  # symmetric: 0 is one of the values; midrise: it is half-way between two

    def stored(self, matrix: Tensor) -> LowBitWeight:
        """Return the nearest codes, and the grid."""
        groups = in_groups(matrix, self.group)
        grid = grid_of(groups, self.bits, self.grid, self.scale_bits)
        return LowBitWeight.of(groups.joined(codes_of(groups, grid, self.bits)), *grid, self.bits)
