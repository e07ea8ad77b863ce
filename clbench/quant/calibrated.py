"""Go through a backbone stage by stage and choose, for each product, how its operands are rounded.

Every stage is looked at in float: no error of an earlier one adds up while a later one is calibrated. What a
``Calibrated`` quantiser is made of is said by two methods, one for a layer and one for an attention. One that
has to see more of the backbone than what comes in looks at a stage itself: it derives from ``ByStage``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.quant import Quantiser
from clbench.quant.low_bit_layers import LowBitLayer
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.observed import observed
from clbench.quant.parts.places import Place, Stage, stages
from clbench.quant.parts.rounding import Rounding
from clbench.quant.quantised import Quantised, low_bit


@dataclass(frozen=True)
class Fitted:
    """What was chosen for a layer: its weight, and what is done to its input."""

    weight: LowBitWeight  # for x' = x / ratio - offset
    rounding: Rounding | None = None  # of x'
    around: dict[str, Tensor] = field(default_factory=dict)  # ratio, offset and correction, those there are


@dataclass(frozen=True)
class FittedStage:
    """What was chosen for a stage."""

    layers: dict[str, Fitted]  # by path
    operands: dict[str, Rounding]  # by OPERANDS, those that are rounded


@dataclass(frozen=True)
class ByStage(Quantiser):
    """A quantiser of weights and activations that looks at images, stage by stage."""

    bits: Annotated[int, Field(ge=2, le=8)] = 4  # of weights and activations
    weight_bits: Annotated[int, Field(ge=0, le=8)] = 0  # of weights alone; 0: as bits says
    activation_bits: Annotated[int, Field(ge=0, le=8)] = 0  # of activations alone; 0: as bits says
    images: Annotated[int, Field(ge=1)] = 32  # calibration images

    def __post_init__(self) -> None:
        """Refuse a single bit, which no method here is for."""
        for name in ("weight_bits", "activation_bits"):
            if getattr(self, name) == 1:
                raise ValueError(f"{name}: 1 is not allowed: use 2 to 8, or 0 for what bits says")

    @property
    def num_images(self) -> int:
        """Number of calibration images."""
        return self.images

    @property
    def of_weights(self) -> int:
        """Bits of a weight."""
        return self.weight_bits or self.bits

    @property
    def of_activations(self) -> int:
        """Bits of an activation."""
        return self.activation_bits or self.bits

    @abstractmethod
    def fit_stage(
        self, backbone: Backbone, stage: Stage, images: Tensor, generator: torch.Generator
    ) -> FittedStage:
        """Choose for all layers of a stage, and for the operands of its attention."""

    def refine(
        self,
        backbone: Backbone,
        stage: Stage,
        images: Tensor,
        layers: Mapping[str, LowBitLayer],
        roundings: Mapping[str, Rounding],
        generator: torch.Generator,
    ) -> None:
        """Improve on what was chosen for a stage, in place; the backbone computes in float meanwhile.

        ``images`` are all that were asked for, of which the first were looked at.
        """

    def quantise(self, backbone: Backbone, images: Tensor, generator: torch.Generator) -> Quantised:
        """Calibrate every stage, and put the low-bit layers and roundings in their places."""
        layers: dict[str, LowBitLayer] = {}
        roundings: dict[str, Rounding] = {}
        for stage in stages(backbone):
            chosen = self.fit_stage(backbone, stage, images[: self.images], generator)
            own: dict[str, LowBitLayer] = {}
            for place in stage.places:
                fitted = chosen.layers[place.path]
                own[place.path] = low_bit(place.layer, fitted.weight, fitted.rounding, **fitted.around)
            of_attention = {stage.attention[name].name: made for name, made in chosen.operands.items()}
            self.refine(backbone, stage, images, own, of_attention, generator)
            layers |= own
            roundings |= of_attention
        return Quantised(backbone, self, layers, roundings)


@dataclass(frozen=True)
class Calibrated(ByStage):
    """A quantiser of weights and activations that looks at what comes in."""

    @abstractmethod
    def fit_layer(self, place: Place, inputs: Tensor, generator: torch.Generator) -> Fitted:
        """Choose for a layer that got ``inputs``, the tensor that came in with all images."""

    @abstractmethod
    def fit_attention(self, operands: dict[str, Tensor], generator: torch.Generator) -> dict[str, Rounding]:
        """Choose for the operands of an attention, (B, H, N, E) and probs (B, H, N, M), by their names."""

    def fit_stage(
        self, backbone: Backbone, stage: Stage, images: Tensor, generator: torch.Generator
    ) -> FittedStage:
        """Look at a stage, and choose for one product after another."""
        seen = observed(backbone, stage, images)
        layers = {
            place.path: self.fit_layer(place, seen.inputs.pop(place.path), generator)
            for place in stage.places
        }
        operands = self.fit_attention(seen.operands, generator) if stage.attention else {}
        return FittedStage(layers, operands)
