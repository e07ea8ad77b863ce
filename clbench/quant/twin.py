"""Give values after a GELU or a softmax two even grids, and weigh errors by how much features feel them.

Z. Yuan, C. Xue, Y. Chen, Q. Wu, G. Sun, "PTQ4ViT: Post-Training Quantization for Vision Transformers with
Twin Uniform Quantization", ECCV 2022, arXiv 2111.12293. ``parts/twin_uniform.py`` holds the two grids.
Candidates are, with the scale s that ends at the largest magnitude, and for the split point of a softmax,

    s (alpha + i (beta - alpha) / 100),  i = 0..100,  alpha = 0.01, beta = 1.2,    and  2^-i,  i = 0..19.

The best has the least sum of (dL / d output)^2 (output's error)^2. Weight and input, or the two operands of
an attention's product, are searched for in turns, for three rounds.

Differs from the paper:
- A backbone has no loss: our choice is L = r^T f with random signs r (``parts/sensitivity.py``).
- Each value uses exactly one of its two grids, as in the paper but not in the published code.
- A weight has a scale an output channel, and q, k and v one a head, as with those it is compared with.
- Of a layer's rows, and of an attention's images, a sample is looked at; rows that no feature feels are not.
- The derivative at an attention's second product is taken at the input of its last layer; in the few networks
  with a norm or a gate between the two, that is left out.
- Images and classifiers stay in float.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.quant import register
from clbench.quant.calibrated import ByStage, Fitted, FittedStage
from clbench.quant.parts.alternating import Errors, Operand, alternated, best, scaled, shares
from clbench.quant.parts.deviations import WeightedSquares
from clbench.quant.parts.even_grids import A_CHANNEL, A_HEAD, ALL, low_bit_weight, symmetric_scale
from clbench.quant.parts.observed import matrix_of, observed
from clbench.quant.parts.places import OPERANDS, Place, Stage
from clbench.quant.parts.products import layer_product, logits, mixed, output_rows
from clbench.quant.parts.rounding import Rounding
from clbench.quant.parts.sampled import sampled_images, sampled_rows
from clbench.quant.parts.sensitivity import LOGITS, MIXED, sensitivity
from clbench.quant.parts.twin_uniform import TwinGelu, TwinSoftmax
from clbench.quant.parts.uniform import Uniform

SPLITS = 20  # candidates for a split point


@register("twin")
@dataclass(frozen=True)
class Twin(ByStage):
    """PTQ4ViT: twin uniform grids, and errors weighted by squared gradients."""

    roundings: ClassVar[tuple[type[Rounding], ...]] = (Uniform, TwinGelu, TwinSoftmax)

    lowest: Annotated[float, Field(gt=0)] = 0.01  # alpha: the least candidate's share of the scale
    highest: Annotated[float, Field(gt=0)] = 1.2  # beta: the greatest one's
    rounds: Annotated[int, Field(ge=1)] = 3  # over both operands of a product

    def fit_stage(
        self, backbone: Backbone, stage: Stage, images: Tensor, generator: torch.Generator
    ) -> FittedStage:
        """Look at a stage, forwards and backwards, and search for one product after another."""
        seen = observed(backbone, stage, images)
        felt = sensitivity(backbone, stage, images, generator)
        layers = {
            place.path: self._layer(
                place, seen.inputs.pop(place.path), felt.outputs.pop(place.path), generator
            )
            for place in stage.places
        }
        operands = self._attention(seen.operands, felt.products, generator) if stage.attention else {}
        return FittedStage(layers, operands)

    def _layer(self, place: Place, inputs: Tensor, felt: Tensor, generator: torch.Generator) -> Fitted:
        """Search for the scales of the weight's channels, and in turns for that of the input."""
        weight, multiply = matrix_of(place.layer), layer_product(place.layer)
        weights = output_rows(place.layer, felt)
        rows = sampled_rows(place.layer, inputs, generator, among=weights.any(dim=1).nonzero()[:, 0].cpu())
        error = WeightedSquares(multiply(weight, rows.inputs), weights[rows.indices])
        scale = symmetric_scale(weight, A_CHANNEL, self.of_weights)
        first = scaled(weight, scale, self.of_weights, self._shares, lambda output: error.along(output, 1).T)
        if place.source == "pixels":
            return Fitted(low_bit_weight(weight, best(first, lambda weight: multiply(weight, rows.inputs))))
        scale = symmetric_scale(inputs, ALL, self.of_activations)
        searched = self._after_gelu if place.source == "gelu" else self._even
        second: Operand[Rounding] = searched(rows.inputs, scale, error.whole)
        grid, rounding = alternated(first, second, multiply, self.rounds)
        return Fitted(low_bit_weight(weight, grid), rounding)

    def _attention(
        self, operands: dict[str, Tensor], felt: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Rounding]:
        """Search for a scale a head of q, k and v, and for the split point of the probabilities."""
        chosen = sampled_images(operands["queries"], generator)
        q, k, probs, v = (operands[name][chosen] for name in OPERANDS)
        scales = {
            name: symmetric_scale(operands[name], A_HEAD, self.of_activations)
            for name in ("queries", "keys", "values")
        }
        error = WeightedSquares(logits(q, k), felt[LOGITS][chosen])
        a_head = partial(error.along, axis=1)
        first, second = self._even(q, scales["queries"], a_head), self._even(k, scales["keys"], a_head)
        of_queries, of_keys = alternated(first, second, logits, self.rounds)
        of_mixed = felt[MIXED][chosen].view(len(q), q.shape[2], q.shape[1], -1)  # (B, N, H, E)
        error = WeightedSquares(mixed(probs, v), of_mixed.transpose(1, 2))
        second = self._even(v, scales["values"], partial(error.along, axis=1))
        of_probs, of_values = alternated(self._after_softmax(probs, error.whole), second, mixed, self.rounds)
        return {"queries": of_queries, "keys": of_keys, "probs": of_probs, "values": of_values}

    @property
    def _shares(self) -> Tensor:
        return shares(self.lowest, self.highest)

    def _even(self, values: Tensor, scale: Tensor, errors: Errors) -> Operand[Uniform]:
        return scaled(values, scale, self.of_activations, self._shares, errors)

    def _after_gelu(self, values: Tensor, scale: Tensor, errors: Errors) -> Operand[TwinGelu]:
        bits = self.of_activations
        points = self._shares.to(values)
        return Operand(
            values,
            TwinGelu(bits, scale=scale),
            points,
            lambda share: TwinGelu(bits, scale=scale * share),
            errors,
        )

    def _after_softmax(self, values: Tensor, errors: Errors) -> Operand[TwinSoftmax]:
        bits = self.of_activations
        points = torch.exp2(-torch.arange(SPLITS)).to(values)
        return Operand(
            values,
            TwinSoftmax(bits, split=points[0]),
            points,
            lambda split: TwinSoftmax(bits, split=split.clone()),
            errors,
        )
