"""Quantise weights and activations: logarithms of a searched base for probabilities and what leaves a GELU.

AdaLog: Z. Wu, J. Chen, H. Zhong, D. Huang, Y. Wang, "AdaLog: Post-Training Quantization for Vision
Transformers with Adaptive Logarithm Quantizer", ECCV 2024, arXiv 2407.12951.

    tensor                                      rounded to
    weights                                     an even grid for each output
    input of a layer after a LayerNorm          one even grid, once the channels are brought to one scale
    input of a layer after a GELU               AdaLog of x + 0.17 (parts/adaptive_log.py), scale searched
    input of any other layer                    one even grid; of the first layer: none, it stays in float
    queries, keys and values of an attention    an even grid for each head
    its probabilities                           AdaLog with scale 1

Everything else (norms, softmax, GELU, biases, sums) stays in float. Each product is searched by itself, in
float otherwise, for the least squared error of its output: its two operands by turns, with FPCS
(parts/fpcs.py). Then, with ``retrain``, each block learns which way its weights are rounded
(block_training.py).

The 0.17 is taken off again behind the product: b' = b - 0.17 W^ 1, with the sums of the rounded weights.

Of a convolution nothing but the weights and one even grid for the input are searched.

Differs from the paper:
- the classifier stays in float: it belongs to the strategy here, and changes with each task;
- calibration images come in as for prediction, without the augmentation that the published code leaves on;
- quantiles are those of all values, not means over chunks of them;
- zero points lie around that of the extremes, not around L / 2, with which eight bits cut much off, and the
  largest scales reach from the extremes to 0;
- attention's operands start where their own error is least, as those of layers do (our choice);
- six bits and more also try q below 10, without which they would be no finer than five;
- a search keeps the best of all its steps (parts/fpcs.py);
- of a convolution's input 8192 rows are looked at, drawn at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.quant import register
from clbench.quant.block_training import BlockTraining
from clbench.quant.calibrated import Calibrated, Fitted
from clbench.quant.low_bit_layers import LowBitLayer
from clbench.quant.parts.adaptive_log import AdaptiveLog
from clbench.quant.parts.adaptive_log_operand import AdaptiveLogOperand
from clbench.quant.parts.channels import one_grid
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.observed import matrix_of
from clbench.quant.parts.output_error import values_in
from clbench.quant.parts.places import Place, Stage
from clbench.quant.parts.rounding import Rounding
from clbench.quant.parts.sampled import drawn, rows_for
from clbench.quant.parts.searched import Effort, Searched, by_turns
from clbench.quant.parts.uniform import Uniform
from clbench.quant.parts.uniform_operand import UniformOperand

SHIFT = 0.16997124254703522  # minus the least value of a GELU
STEPS = 6  # of FPCS, p


@register("adalog")
@dataclass(frozen=True)
class AdaLog(Calibrated):
    """AdaLog with its search; bits of probabilities are those of activations."""

    roundings: ClassVar[tuple[type[Rounding], ...]] = (Uniform, AdaptiveLog)

    candidates: Annotated[int, Field(ge=32, multiple_of=16)] = 128  # in each step of a search
    rounds: Annotated[int, Field(ge=1)] = 3  # how often the two operands of a product take their turns
    search: Literal["fpcs", "plain"] = "fpcs"  # plain: the first grid only
    tokens: Annotated[int, Field(ge=0)] = 0  # rows of a layer's input whose output is looked at; 0: all
    budget: Annotated[float, Field(gt=0)] = 4  # MB that candidates take while they are tried

    retrain: Annotated[int, Field(ge=0)] = 0  # iterations of training for each block; 20000 in the paper
    retrain_images: Annotated[int, Field(ge=1)] = 1024  # that are trained with, if any are

    @property
    def num_images(self) -> int:
        """Number of images: for the search, or for training if that needs more."""
        return max(self.images, self.retrain_images) if self.retrain else self.images

    def fit_layer(self, place: Place, inputs: Tensor, generator: torch.Generator) -> Fitted:
        """Search weight and input, as the place asks for."""
        layer = place.layer
        rows = rows_for(layer, inputs, generator)
        some = drawn(rows.shape[1], self.tokens, generator)
        weight = matrix_of(layer).view(len(rows), -1, rows.shape[-1])
        if place.source == "pixels":
            return self._with_float_input(weight, rows[:, some])
        if place.source == "norm" and isinstance(layer, nn.Linear):
            return self._after_norm(weight, rows, some)
        if place.source == "gelu" and isinstance(layer, nn.Linear):
            return self._after_gelu(weight, rows, some)
        return self._plain(weight, rows, some)

    def fit_attention(self, operands: dict[str, Tensor], generator: torch.Generator) -> dict[str, Rounding]:
        """Search queries with keys, and probabilities with values."""
        bits, effort = self.of_activations, self._effort
        queries, keys = self._by_head(operands["queries"]), self._by_head(operands["keys"])
        values = self._by_head(operands["values"].mT)
        probs = AdaptiveLogOperand(operands["probs"], bits, effort)
        found: dict[str, Searched] = {"queries": queries, "keys": keys, "probs": probs, "values": values}
        batch, _, tokens, _ = operands["queries"].shape
        some = drawn(batch, -(-self.tokens // tokens), generator)
        for operand in found.values():
            operand.look_at(some, 0)
        by_turns(queries, keys, self.rounds)
        by_turns(probs, values, self.rounds)
        return {name: operand.rounding() for name, operand in found.items()}

    def refine(
        self,
        backbone: Backbone,
        stage: Stage,
        images: Tensor,
        layers: Mapping[str, LowBitLayer],
        roundings: Mapping[str, Rounding],
        generator: torch.Generator,
    ) -> None:
        """Train a block, if asked for."""
        if self.retrain:
            BlockTraining(self.retrain).train(backbone, stage, images, layers, roundings, generator)

    def _with_float_input(self, weight: Tensor, rows: Tensor) -> Fitted:
        outputs = self._by_output(weight)
        outputs.search(rows, rows)
        return Fitted(_packed(outputs))

    def _plain(self, weight: Tensor, rows: Tensor, some: Tensor) -> Fitted:
        outputs = self._by_output(weight)
        inputs = UniformOperand(rows, self.of_activations, self._effort, (1, 1), is_input=True)
        inputs.look_at(some, 1)
        by_turns(outputs, inputs, self.rounds)
        return Fitted(_packed(outputs), inputs.rounding())

    def _after_norm(self, weight: Tensor, rows: Tensor, some: Tensor) -> Fitted:
        """Bring the channels to one scale first, by grids that change each of them least."""
        columns = rows[0].T
        each = UniformOperand(columns, self.of_activations, self._effort, (len(columns),), is_input=True)
        channels = one_grid(each.scale, each.zero)
        weight = channels.of_weight(weight)
        fitted = self._plain(weight, channels.of_input(rows), some)
        around = {"ratio": channels.ratio, "offset": channels.offset}
        around["correction"] = channels.of_bias(weight[0])
        return replace(fitted, around=around)

    def _after_gelu(self, weight: Tensor, rows: Tensor, some: Tensor) -> Fitted:
        """Shift the input by the GELU's least value, and take what that adds off the bias."""
        outputs = self._by_output(weight)
        inputs = AdaptiveLogOperand(rows, self.of_activations, self._effort, shift=SHIFT, has_scale=True)
        inputs.look_at(some, 1)
        by_turns(inputs, outputs, self.rounds)
        stored = _packed(outputs)
        around = {"offset": rows.new_tensor(-SHIFT), "correction": -SHIFT * stored.expanded().sum(dim=1)}
        return Fitted(stored, inputs.rounding(), around)

    def _by_output(self, weight: Tensor) -> UniformOperand:
        return UniformOperand(weight, self.of_weights, self._effort, tuple(weight.shape[:-1]))

    def _by_head(self, operand: Tensor) -> UniformOperand:
        return UniformOperand(operand, self.of_activations, self._effort, (1, operand.shape[1], 1))

    @property
    def _effort(self) -> Effort:
        steps = STEPS if self.search == "fpcs" else 1
        return Effort(self.candidates, steps, values_in(self.budget))


def _packed(weight: UniformOperand) -> LowBitWeight:
    """Return a weight as it is stored."""
    codes, scale, zero = (each.reshape(weight.values[..., 0].numel(), -1) for each in weight.stored())
    return LowBitWeight.of(codes, scale, zero, weight.bits)
