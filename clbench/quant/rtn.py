"""Round weights to the nearest of 2^b levels, a scale a channel or a group; activations stay in float.

draft
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.quant import Quantiser, register
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.observed import matrix_of
from clbench.quant.parts.places import stages
from clbench.quant.quantised import Quantised, low_bit


@register("rtn")
@dataclass(frozen=True)
class RTN(Quantiser):
    """Round to nearest."""

    bits: int = 4

    def quantise(self, backbone: Backbone, images: Tensor, generator: torch.Generator) -> Quantised:
        """Round each layer's weight."""
        layers = {}
        for stage in stages(backbone):
            for place in stage.places:
                w = matrix_of(place.layer)
                low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
                s = (high - low) / (2**self.bits - 1)
                z = -low / s
                q = torch.round(w / s + z).clamp(0, 2**self.bits - 1)
                layers[place.path] = low_bit(place.layer, LowBitWeight.of(q, s, z, self.bits))
        return Quantised(backbone, self, layers)
