"""Put a bottleneck after the MLP of every block.

J. Pfeiffer et al., "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", EACL 2021, arXiv
2005.00247: half of ``houlsby``, ``z <- z + Up(gelu(Down(z)))`` on the output of the MLP alone.

Differs from the paper, whose blocks are post-norm: no layer norm is moved or trained.
Parameters of a ViT of L blocks of width D: L (2 r D + r + D); 156,768 for ViT-B/16 with the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import VTAB_RECIPE, Petl, register
from clbench.petl.parts.output_adapter import OutputAdapter


@register("pfeiffer")
@dataclass(frozen=True)
class Pfeiffer(Petl):
    """One adapter a block: identity at the start, not mergeable."""

    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE

    rank: Annotated[int, Field(ge=1)] = 8  # width of the bottleneck

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one bottleneck after the MLP of every block."""
        for block in backbone.blocks:
            yield block["mlp"], OutputAdapter(block["mlp"], self.rank, generator)
