"""Round to even grids from the least to the greatest value: no search, the yardstick of all that do search.

Weights have a grid an output channel, the operands q, k and v of an attention one a head, probabilities and
the inputs of layers one a tensor; images and classifiers stay in float. With L = 2^b levels, asymmetric and
symmetric,

    s = (max - min) / (L - 1), z = round(-min / s)    or    s = max|x| / (L / 2 - 0.5), z = L / 2,
    c = clamp(round(x / s) + z, 0, L - 1),  x^ = (c - z) s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from clbench.quant import register
from clbench.quant.calibrated import Calibrated, Fitted
from clbench.quant.parts.even_grids import (
    A_CHANNEL,
    A_HEAD,
    ALL,
    Axes,
    from_extremes,
    from_largest,
    low_bit_weight,
)
from clbench.quant.parts.observed import matrix_of
from clbench.quant.parts.places import Place
from clbench.quant.parts.rounding import Rounding
from clbench.quant.parts.uniform import Uniform


@register("minmax")
@dataclass(frozen=True)
class MinMax(Calibrated):
    """Weights and activations on even grids that end where the values do."""

    roundings: ClassVar[tuple[type[Rounding], ...]] = (Uniform,)

    grid: Literal["asymmetric", "symmetric"] = "asymmetric"  # from the least to the greatest value; around 0

    def fit_layer(self, place: Place, inputs: Tensor, generator: torch.Generator) -> Fitted:
        """Take the ranges of the weight's channels and of the input."""
        weight = matrix_of(place.layer)
        stored = low_bit_weight(weight, self._laid(weight, A_CHANNEL, self.of_weights))
        from_pixels = place.source == "pixels"
        return Fitted(stored, None if from_pixels else self._laid(inputs, ALL, self.of_activations))

    def fit_attention(self, operands: dict[str, Tensor], generator: torch.Generator) -> dict[str, Rounding]:
        """Take the ranges of the heads, and that of all probabilities."""
        return {
            name: self._laid(values, ALL if name == "probs" else A_HEAD, self.of_activations)
            for name, values in operands.items()
        }

    def _laid(self, values: Tensor, axes: Axes, bits: int) -> Uniform:
        lay = from_largest if self.grid == "symmetric" else from_extremes
        return lay(values, axes, bits)
