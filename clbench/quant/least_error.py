"""Choose each weight's code so that the layer's output changes least on calibration images.

E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023, arXiv 2210.17323; ``parts/compensated.py`` has the formulas.
Activations stay in float.

Differs from the paper: each row is rounded on several grids, whose ends are ever smaller shares of its least
and greatest weights, and keeps the one with the least squared error (our choice); one bit has the mid-rise
grid; and a layer is shown what it gets in float, not what it gets from quantised layers.

Shape letters: C groups of a convolution (1 of a linear layer), R rows in each, I columns, G groups a row, S
shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.quant import Quantiser, register
from clbench.quant.parts.compensated import compensated_codes
from clbench.quant.parts.grids import Bits, ScaleBits, grid_of, in_groups
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.observed import CHUNK, matrix_of, observed, rows_of
from clbench.quant.parts.places import stages
from clbench.quant.quantised import Quantised, low_bit

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of a group's least and greatest weights
OF_ONE_BIT = (2.0, 1.8, 1.6, 1.4, 1.2, 1.0, 0.8, 0.6)  # of the mean absolute weight


@register("least-error")
@dataclass(frozen=True)
class LeastError(Quantiser):
    """Weights only; looks at images."""

    bits: Bits = 4  # of a weight
    group: Annotated[int, Field(ge=0)] = 0  # neighbours in a row that share a scale, at most; 0: the row
    scale_bits: ScaleBits = 16  # of each scale and each zero point
    images: Annotated[int, Field(ge=1)] = 32  # calibration images

    @property
    def num_images(self) -> int:
        """Number of calibration images."""
        return self.images

    def quantise(self, backbone: Backbone, images: Tensor, generator: torch.Generator) -> Quantised:
        """Look at the inputs of every layer, and store its weight."""
        layers = {}
        for stage in stages(backbone):
            inputs = observed(backbone, stage, images).inputs
            for place in stage.places:
                gram = gram_of(place.layer, inputs.pop(place.path))
                layers[place.path] = low_bit(place.layer, self.stored(matrix_of(place.layer), gram))
        return Quantised(backbone, self, layers)

    @torch.no_grad()
    def stored(self, matrix: Tensor, gram_CII: Tensor) -> LowBitWeight:
        """Return a weight (C R, I) in few bits, for inputs with H = ``gram_CII``."""
        groups = in_groups(matrix, self.group)
        shares = OF_ONE_BIT if self.bits == 1 else SHARES
        grids = [grid_of(groups, self.bits, "asymmetric", self.scale_bits, share) for share in shares]
        scale, zero = (torch.stack([held.float() for held in each]) for each in zip(*grids, strict=True))
        codes, squared = self._rounded(matrix, scale, zero, gram_CII)
        best = squared.argmin(dim=0), torch.arange(len(matrix), device=matrix.device)
        kind = grids[0][0].dtype  # of the largest scales
        return LowBitWeight.of(codes[best], scale[best].to(kind), zero[best].to(kind), self.bits)

    def _rounded(
        self, matrix: Tensor, scale_SMG: Tensor, zero_SMG: Tensor, gram_CII: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the codes (S, C R, I) on all grids, and the squared errors (S, C R) of the outputs."""
        shares, _, groups = scale_SMG.shape
        width = -(-matrix.shape[1] // groups)
        of_rows = (matrix.expand(shares, -1, -1), scale_SMG, zero_SMG)
        weight, scale, zero = (_swapped(rows, len(gram_CII)) for rows in of_rows)
        codes, squared = compensated_codes(weight, (scale, zero), width, gram_CII, self.bits)
        return _swapped(codes, shares), _swapped(squared[..., None], shares)[..., 0]


def _swapped(rows: Tensor, parts: int) -> Tensor:
    """Return (A, parts R, X) as (parts, A R, X): what was outermost goes inside the parts."""
    first, _, columns = rows.shape
    return rows.reshape(first, parts, -1, columns).transpose(0, 1).reshape(parts, -1, columns)


@torch.no_grad()
def gram_of(layer: nn.Linear | nn.Conv2d, inputs: Tensor) -> Tensor:
    """Return X^T X / n of a layer's inputs, (C, I, I), in float32."""
    total, num_rows = None, 0
    for images in torch.split(inputs, CHUNK):
        rows = rows_of(layer, images)
        own = rows.mT @ rows
        total = own if total is None else total + own
        num_rows += rows.shape[1]
    assert total is not None
    gram: Tensor = total / num_rows
    return gram
