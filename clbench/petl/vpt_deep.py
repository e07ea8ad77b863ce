"""Learn a few tokens for each block that it gets beside the image's.

M. Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv 2203.12119, VPT-deep: before each block p prompts of
its own are inserted after the class token, and what the block makes of them is dropped after it.

Differs from the paper: it searches the number of prompts, the learning rate and the weight decay for each
data set, with SGD, warm-up and a cosine. Here are 10 prompts, as 50 drown the 16 patches of an image of 64
pixels (and end below linear probing there), and AdamW, as SGD without warm-up is unstable; and our
classifiers start in their own way, not with a bias of -log 99.

Not the identity at the start. Parameters of a ViT of L blocks of width D: L p D; 460,800 for ViT-B/16 with
50 prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.options import LATER
from clbench.petl import VTAB_RECIPE, Petl, register
from clbench.petl.parts.prompts import Insertion, Removal, drawn_prompts


@register("vpt-deep")
@dataclass(frozen=True)
class DeepPrompts(Petl):
    """Not the identity at the start, not mergeable; for ViTs."""

    identity_at_start: ClassVar[bool] = False
    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE

    length: Annotated[int, Field(ge=1)] = 10  # prompts a block, p; 1 to 200 in the paper
    first_values: Annotated[Literal["drawn", "zeros"], LATER] = "drawn"  # of the prompts

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Insert prompts before every block and take them out after it."""
        for block in backbone.blocks:
            prompts = drawn_prompts(backbone, self.length, generator, self.first_values)
            yield block[""], Insertion(prompts, block.num_prefix)
            yield block[""], Removal(self.length, block.num_prefix)
