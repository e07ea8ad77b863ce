"""Add a small bottleneck in parallel to the attention of a block.

Q. Gao et al., "A Unified Continual Learning Framework with General Parameter-Efficient Tuning" (LAE), ICCV
2023, arXiv 2303.10070, section 3: ``out = MHA(h) + s (W2 gelu(W1 h + b1) + b2)`` with h = norm1(x), inside
the residual branch. A block without attention, as of a ConvNet, has it beside the whole block, where it is
the same as ``conv-adapter``.

Parameters a block of width D: (2 r + 1) D + r + 1; 42,270 for ViT-B/16 with the defaults.
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


@register("adapter")
@dataclass(frozen=True)
class Adapter(Petl):
    """LAE's adapter: identity at the start, not mergeable."""

    rank: Annotated[int, Field(ge=1)] = 5  # width of the bottleneck
    num_blocks: Annotated[int, Field(ge=0)] = 0  # the first blocks to adapt; 0: 5/12 of them, as in the paper

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one bottleneck beside the attention, or the whole, of each of the first blocks."""
        for block in first_blocks(backbone, self.num_blocks):
            site = block["attn"] if block.has("attn") else block.whole
            yield site, Bottleneck(site, self.rank, generator)
