"""Round an attention's probabilities to powers of two, all else to even grids from minimum to maximum.

Y. Lin, T. Zhang, P. Sun, Z. Li, S. Zhou, "FQ-ViT: Post-Training Quantization for Fully Quantized Vision
Transformer", IJCAI 2022, arXiv 2111.13824: x^ = 2^-c with c = round(-log2 x), and 0 where c is 2^b or more.
Nothing is searched for; the sum over values becomes a sum of shifted integers. More bits add smaller levels,
but none between 1 and 1/2, where few tokens attend to each other: the paper has 4 bits for probabilities.

Differs from the paper:
- LayerNorm and softmax are computed in float: neither the power-of-two factors of a LayerNorm's input nor the
  integer-only softmax are here. A layer after a LayerNorm rounds what comes out of it.
- q, k and v have a grid a head, not a tensor, as with those it is compared with.
- Images and classifiers stay in float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clbench.quant import register
from clbench.quant.calibrated import Calibrated, Fitted
from clbench.quant.parts.even_grids import A_CHANNEL, A_HEAD, ALL, from_extremes, low_bit_weight
from clbench.quant.parts.logarithmic import Logarithmic
from clbench.quant.parts.observed import matrix_of
from clbench.quant.parts.places import Place
from clbench.quant.parts.rounding import Rounding
from clbench.quant.parts.uniform import Uniform


@register("log2")
@dataclass(frozen=True)
class Log2(Calibrated):
    """FQ-ViT's probabilities: powers of two."""

    roundings: ClassVar[tuple[type[Rounding], ...]] = (Uniform, Logarithmic)

    def fit_layer(self, place: Place, inputs: Tensor, generator: torch.Generator) -> Fitted:
        """Take the ranges of the weight's channels and of the input."""
        weight = matrix_of(place.layer)
        stored = low_bit_weight(weight, from_extremes(weight, A_CHANNEL, self.of_weights))
        from_pixels = place.source == "pixels"
        return Fitted(stored, None if from_pixels else from_extremes(inputs, ALL, self.of_activations))

    def fit_attention(self, operands: dict[str, Tensor], generator: torch.Generator) -> dict[str, Rounding]:
        """Take the ranges of the heads; probabilities need none."""
        bits, one = self.of_activations, operands["probs"].new_ones(())
        even = {name: operands[name] for name in ("queries", "keys", "values")}
        return {
            "probs": Logarithmic(bits, scale=one, steps=one.clone()),
            **{name: from_extremes(values, A_HEAD, bits) for name, values in even.items()},
        }
