"""Round probabilities to powers of sqrt 2, and give all channels after a LayerNorm one grid without loss.

Z. Li, J. Xiao, L. Yang, Q. Gu, "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision
Transformers", ICCV 2023, arXiv 2212.08254. Two re-parameterisations:

- What comes out of a LayerNorm is calibrated channel by channel, and ``parts/channels.py`` turns these grids
  into one for all; the layer behind it is quantised as it is then.
- Probabilities are x^ = s 2^(-c / 2), which is a shift and one of two scales (``parts/logarithmic.py``).

Every range, also s, is the best of three between percentiles (``parts/percentiles.py``), by the squared error
of what is rounded. What a layer's bias gains is computed with the weight in float, as there.

Differs from the paper:
- One pass over the images, not two: ratio and offset change nothing in float, so what the second pass would
  see is computed from what the first one saw.
- The mean of the channels' zero points is rounded, as codes are integers here; the published code leaves it.
- Ratio and offset stay with the layer instead of being folded into the LayerNorm.
- q, k and v have a grid a head, not a tensor, as with those it is compared with.
- Images and classifiers stay in float.
- Only LayerNorms of a block are followed, not those between the stages of a Swin Transformer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from clbench.quant import register
from clbench.quant.calibrated import Calibrated, Fitted
from clbench.quant.parts.channels import one_grid
from clbench.quant.parts.even_grids import low_bit_weight
from clbench.quant.parts.logarithmic import Logarithmic
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.observed import matrix_of
from clbench.quant.parts.percentiles import even_grids, log_sqrt2
from clbench.quant.parts.places import Place
from clbench.quant.parts.rounding import Rounding
from clbench.quant.parts.uniform import Uniform


@register("log-sqrt2")
@dataclass(frozen=True)
class LogSqrt2(Calibrated):
    """RepQ-ViT: one grid for all channels, and powers of sqrt 2."""

    roundings: ClassVar[tuple[type[Rounding], ...]] = (Uniform, Logarithmic)

    def fit_layer(self, place: Place, inputs: Tensor, generator: torch.Generator) -> Fitted:
        """Choose ranges for the weight's channels and for the input, or for each of the input's channels."""
        weight, bits = matrix_of(place.layer), self.of_activations
        if place.source == "pixels":
            return Fitted(self._stored(weight))
        if place.source == "norm" and isinstance(place.layer, nn.Linear):
            return self._after_norm(weight, inputs)
        grid = even_grids(inputs.reshape(1, -1), bits)
        return Fitted(self._stored(weight), Uniform(bits, scale=grid.scale[0, 0], zero=grid.zero[0, 0]))

    def fit_attention(self, operands: dict[str, Tensor], generator: torch.Generator) -> dict[str, Rounding]:
        """Choose ranges for the heads, and a scale for the probabilities."""
        bits = self.of_activations
        even = {name: operands[name] for name in ("queries", "keys", "values")}
        return {
            "probs": log_sqrt2(operands["probs"], bits),
            **{name: _a_head(values, bits) for name, values in even.items()},
        }

    def _after_norm(self, weight: Tensor, inputs: Tensor) -> Fitted:
        """Give the channels of inputs (..., I) one grid, and the weight (O, I) what makes up for it."""
        grids = even_grids(inputs.flatten(0, -2).T, self.of_activations)
        channels = one_grid(grids.scale[:, 0], grids.zero[:, 0])
        weight = channels.of_weight(weight)
        return Fitted(
            self._stored(weight),
            Uniform(self.of_activations, scale=channels.scale, zero=channels.zero),
            {"ratio": channels.ratio, "offset": channels.offset, "correction": channels.of_bias(weight)},
        )

    def _stored(self, weight: Tensor) -> LowBitWeight:
        return low_bit_weight(weight, even_grids(weight, self.of_weights))


def _a_head(values: Tensor, bits: int) -> Uniform:
    """Return a grid a head of values (B, H, N, E)."""
    grids = even_grids(values.transpose(0, 1).flatten(1), bits)
    shape = (1, -1, 1, 1)
    return Uniform(bits, scale=grids.scale.view(shape), zero=grids.zero.view(shape))
