"""Add a scaled bottleneck in parallel to the MLP of every block.

S. Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022,
arXiv 2205.13535: ``y = m + MLP(LN(m)) + s Up(dropout(relu(Down(m))))``, with s fixed.

Differs from the paper's figure, follows its code: the bottleneck reads m without a layer norm.
Parameters of a ViT of L blocks of width D: L (2 r D + r + D); 156,768 for ViT-B/16 with the defaults, and
1,189,632 with rank 64.

In a ConvNet, whose MLP (if it has one) reads no residual stream, it is beside each whole block that keeps the
shape of its input, which is our choice.
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
from clbench.petl.parts.bottleneck import down_and_up


class ParallelAdapter(Branch):
    """``output + s Up(dropout(relu(Down(input))))``; zero at the start because Up is."""

    def __init__(
        self, site: Site, rank: int, *, scale: float, dropout: float, generator: torch.Generator
    ) -> None:
        """Draw Down (rank, width) from ``generator``."""
        super().__init__()
        self.down, self.up = down_and_up(site, rank, generator)
        self.scale = scale
        self.dropout = dropout

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the bottleneck's view of the residual stream."""
        hidden = F.dropout(F.relu(self.down(inputs)), self.dropout, self.training)
        bottleneck: Tensor = self.up(hidden)
        return output + self.scale * bottleneck


@register("adaptformer")
@dataclass(frozen=True)
class AdaptFormer(Petl):
    """Parallel adapters: identity at the start, not mergeable."""

    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE

    rank: Annotated[int, Field(ge=1)] = 8  # width of the bottleneck; 64 in the paper, 8 in VTAB-1k tables
    scale: Annotated[float, Field(gt=0)] = 0.1  # s
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of the bottleneck that a training step drops

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one bottleneck beside the norm and MLP, or the whole, of every block."""
        options = {"scale": self.scale, "dropout": self.dropout}
        for block in backbone.blocks:
            if block.keeps_shape:
                site = block["mlp.residual"] if block.has("mlp.residual") else block.whole
                yield site, ParallelAdapter(site, self.rank, generator=generator, **options)
