"""Round every weight to the nearest of a few evenly spaced values around zero.

Say here whose quantiser it is (authors, venue, arXiv) and, under "Differs from the paper:", what is another.
This one is symmetric rounding to nearest with a scale a channel; it needs no images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.quant import Quantiser, register
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.observed import matrix_of
from clbench.quant.parts.places import stages
from clbench.quant.quantised import Quantised, low_bit


@register("example")
@dataclass(frozen=True)
class Example(Quantiser):
    """Weights only; activations stay in float."""

    # Every field is an option: --quant example:bits=4, or --variant example:bits=4.
    bits: Annotated[int, Field(ge=2, le=8)] = 4  # of a weight

    def quantise(self, backbone: Backbone, images: Tensor, generator: torch.Generator) -> Quantised:
        """Put a low-bit layer in the place of each linear layer and convolution."""
        places = [place for stage in stages(backbone) for place in stage.places]
        return Quantised(
            backbone,
            self,
            {place.path: low_bit(place.layer, self.rounded(matrix_of(place.layer))) for place in places},
        )

    def rounded(self, weight: Tensor) -> LowBitWeight:
        """Return a weight (O, I) as codes 0..L - 1 with a scale a row, the middle of the codes being 0."""
        middle = 2 ** (self.bits - 1)
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / (middle - 0.5)
        codes = torch.round(weight / scale + middle).clamp(0, 2**self.bits - 1)
        return LowBitWeight.of(codes, scale, torch.full_like(scale, middle), self.bits)
