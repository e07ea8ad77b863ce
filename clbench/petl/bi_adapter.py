"""Add a bottleneck of low-bit weights in parallel to the MLP of every block (Bi-AdaptFormer).

S. Jie, H. Wang, Z.-H. Deng, "Revisiting the Parameter Efficiency of Adapters from the Perspective of
Precision Redundancy", ICCV 2023, arXiv 2307.16867: ``x + MLP(norm2(x)) + s Up(dropout(relu(Down(x))))``,
without biases. Both weights are trained through their quantised values
(``clbench.quant.parts.gauss_codebook``) and stored packed.

Not the identity at the start, but for 32 bits: Up is small, and quantised it has no zeros.
Parameters of a ViT of L blocks of width D: 2 r L D; 589,824 for ViT-B/16 with the defaults.
Stored: bits / 8 bytes a parameter and 16 L; 73,920 bytes for ViT-B/16 with the defaults.

Differs from the paper:
- Its images are not normalised: ``--set backbone.normalise=unit``.
- It chooses s per data set from 0.01, 0.1, 1, 10, 100 (for CIFAR-100 0.1, or 1 where r = 1); 1 is our choice.
- In a ConvNet the bottleneck is beside each whole block that keeps its input's shape, which is our choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import VTAB_RECIPE, Petl, register
from clbench.petl.parts.low_bit import Bits, low_bit_pair


class LowBitBottleneck(Branch):
    """``output + s Up(dropout(relu(Down(inputs))))``."""

    def __init__(
        self, site: Site, rank: int, bits: Bits, scale: float, dropout: float, generator: torch.Generator
    ) -> None:
        """Draw Down and Up; on maps they act on the channels of each pixel."""
        super().__init__()
        self.down, self.up = low_bit_pair(site.width, rank, bits, generator)
        self.scale, self.dropout = scale, dropout
        self.channels = 1 if site.channels_first else -1

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the bottleneck's view of the input, which beside ``mlp.residual`` is not normalised."""
        hidden = F.relu(self.down(inputs.movedim(self.channels, -1)))
        added: Tensor = self.up(F.dropout(hidden, self.dropout, self.training))
        return output + self.scale * added.movedim(-1, self.channels)


@register("bi-adapter")
@dataclass(frozen=True)
class BiAdapter(Petl):
    """An AdaptFormer of 1 to 8 bits a weight: not the identity at the start, not mergeable."""

    identity_at_start: ClassVar[bool] = False
    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE

    rank: Annotated[int, Field(ge=1)] = 32  # width of the bottleneck; 1 is the paper's tiny form
    bits: Bits = 1  # a weight; 32: not quantised
    scale: Annotated[float, Field(gt=0)] = 1.0  # s, which multiplies what is added; not learnt
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of the bottleneck's activations

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one bottleneck beside the MLP, or the whole, of every block."""
        for block in backbone.blocks:
            if block.has("mlp.residual") or block.keeps_shape:
                site = block["mlp.residual"] if block.has("mlp.residual") else block.whole
                yield site, LowBitBottleneck(site, self.rank, self.bits, self.scale, self.dropout, generator)
