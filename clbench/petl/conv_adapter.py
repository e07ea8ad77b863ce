"""Add a small bottleneck in parallel to a whole block.

Q. Gao et al., "A Unified Continual Learning Framework with General Parameter-Efficient Tuning" (LAE), ICCV
2023, arXiv 2303.10070, for ConvNets: ``out = block(x) + s (W2 gelu(W1 x + b1) + b2)``, with 1 x 1
convolutions on maps and linear layers on tokens.

Parameters a block of width D: (2 r + 1) D + r + 1; 63,450 for ConvNeXt-B with the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import Petl, register
from clbench.petl.parts.bottleneck import Bottleneck
from clbench.petl.parts.initialise import first_blocks


@register("conv-adapter")
@dataclass(frozen=True)
class ConvAdapter(Petl):
    """LAE's adapter for ConvNets: identity at the start, not mergeable."""

    rank: Annotated[int, Field(ge=1)] = 5  # width of the bottleneck
    num_blocks: Annotated[int, Field(ge=0)] = 0  # the first blocks to adapt; 0: 5/12 of them, as in the paper

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one bottleneck beside each of the first blocks, which must keep the shape of their input."""
        for block in first_blocks(backbone, self.num_blocks):
            yield block.whole, Bottleneck(block.whole, self.rank, generator)
