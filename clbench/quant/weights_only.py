"""Store each layer's weight in few bits, by itself, without images; activations stay in float."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.quant import Quantiser
from clbench.quant.parts.grids import ScaleBits
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.observed import matrix_of
from clbench.quant.parts.places import stages
from clbench.quant.quantised import Quantised, low_bit


@dataclass(frozen=True)
class WeightsOnly(Quantiser):
    """A quantiser of weights, with a scale and a zero point for each row of a weight or part of one.

    Of a convolution the weights of an output channel are a row.
    """

    group: Annotated[int, Field(ge=0)] = 0  # neighbours in a row that share a scale, at most; 0: the row
    scale_bits: ScaleBits = 16  # of each scale and each zero point

    @abstractmethod
    def stored(self, matrix: Tensor) -> LowBitWeight:
        """Return a weight (O, I) in few bits."""

    def quantise(self, backbone: Backbone, images: Tensor, generator: torch.Generator) -> Quantised:
        """Store the weight of every layer."""
        layers = {
            place.path: low_bit(place.layer, self.stored(matrix_of(place.layer)))
            for stage in stages(backbone)
            for place in stage.places
        }
        return Quantised(backbone, self, layers)
