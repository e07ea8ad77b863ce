"""Search for the scales of symmetric grids by the angle between a product with and without rounding.

The reference that Z. Yuan et al. ("PTQ4ViT", ECCV 2022, arXiv 2111.12293) compare their own method with, Base
PTQ: with the scale s that ends at the largest magnitude, the candidates are

    s (alpha + i (beta - alpha) / 100),  i = 0..100,  alpha = 0.5, beta = 1.2.

In one round the first operand's scale (a weight's, q's, that of the probabilities) is chosen while the
second one is rounded with its s, and then the second one's. The best has the greatest cosine similarity of
the output to that in float: over an output's last axis, on the average.

Differs from the paper:
- A weight has a scale an output channel, as with those it is compared with, not one in all. It is our choice
  to take for its similarity that of the channel's outputs, all rows together.
- Of a layer's rows, and of an attention's images, a sample is looked at.
- Images and classifiers stay in float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from clbench.quant import register
from clbench.quant.calibrated import Calibrated, Fitted
from clbench.quant.parts.alternating import Errors, Operand, alternated, best, scaled, shares
from clbench.quant.parts.deviations import Angle
from clbench.quant.parts.even_grids import A_CHANNEL, ALL, low_bit_weight, symmetric_scale
from clbench.quant.parts.observed import matrix_of
from clbench.quant.parts.places import Place
from clbench.quant.parts.products import layer_product, logits, mixed
from clbench.quant.parts.rounding import Rounding
from clbench.quant.parts.sampled import sampled_images, sampled_rows
from clbench.quant.parts.uniform import Uniform


@register("base-ptq")
@dataclass(frozen=True)
class BasePTQ(Calibrated):
    """Symmetric grids by cosine similarity of the outputs."""

    roundings: ClassVar[tuple[type[Rounding], ...]] = (Uniform,)

    lowest: Annotated[float, Field(gt=0)] = 0.5  # alpha: the least candidate's share of the scale
    highest: Annotated[float, Field(gt=0)] = 1.2  # beta: the greatest one's
    rounds: Annotated[int, Field(ge=1)] = 1  # over both operands of a product

    def fit_layer(self, place: Place, inputs: Tensor, generator: torch.Generator) -> Fitted:
        """Search for the scales of the weight's channels, then for that of the input."""
        weight, multiply = matrix_of(place.layer), layer_product(place.layer)
        rows = sampled_rows(place.layer, inputs, generator).inputs
        angle = Angle(multiply(weight, rows))
        points = shares(self.lowest, self.highest)
        scale = symmetric_scale(weight, A_CHANNEL, self.of_weights)
        first = scaled(weight, scale, self.of_weights, points, lambda output: angle.along(output, 1).T)
        if place.source == "pixels":
            return Fitted(low_bit_weight(weight, best(first, lambda weight: multiply(weight, rows))))
        scale = symmetric_scale(inputs, ALL, self.of_activations)
        second = scaled(rows, scale, self.of_activations, points, angle.whole)
        grid, rounding = alternated(first, second, multiply, self.rounds)
        return Fitted(low_bit_weight(weight, grid), rounding)

    def fit_attention(self, operands: dict[str, Tensor], generator: torch.Generator) -> dict[str, Rounding]:
        """Search for one scale an operand."""
        chosen = sampled_images(operands["queries"], generator)
        few = {name: values[chosen] for name, values in operands.items()}
        found: dict[str, Rounding] = {}
        for one, other, multiply in (("queries", "keys", logits), ("probs", "values", mixed)):
            angle = Angle(multiply(few[one], few[other]))
            first, second = (self._operand(operands[name], few[name], angle.whole) for name in (one, other))
            found[one], found[other] = alternated(first, second, multiply, self.rounds)
        return found

    def _operand(self, all_values: Tensor, few: Tensor, errors: Errors) -> Operand[Uniform]:
        scale = symmetric_scale(all_values, ALL, self.of_activations)
        return scaled(few, scale, self.of_activations, shares(self.lowest, self.highest), errors)
