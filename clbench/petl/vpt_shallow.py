"""Learn a few tokens that the first block gets beside the image's.

M. Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv 2203.12119, VPT-shallow: p prompts are inserted after
the class token before the first block, pass through all blocks, and are left out of the features.

Differs from the paper: it searches the number of prompts, the learning rate and the weight decay for each
data set. Here are 10 prompts, as 50 drown the 16 patches of an image of 64 pixels, and a learning rate that a
constant schedule bears; and our classifiers start in their own way, not with a bias of -log 99.

Not the identity at the start. Parameters of a ViT of width D: p D; 38,400 for ViT-B/16 with 50 prompts.
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
from clbench.petl import Petl, register
from clbench.petl.parts.prompts import Insertion, Removal, drawn_prompts


@register("vpt-shallow")
@dataclass(frozen=True)
class ShallowPrompts(Petl):
    """Not the identity at the start, not mergeable; for ViTs."""

    identity_at_start: ClassVar[bool] = False
    recipe: ClassVar[dict[str, Any]] = {"optimizer": "sgd", "learning_rate": 0.0125, "momentum": 0.9}

    length: Annotated[int, Field(ge=1)] = 10  # prompts, p; 1 to 200 in the paper
    first_values: Annotated[Literal["drawn", "zeros"], LATER] = "drawn"  # of the prompts

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Insert the prompts before the first block and take them out after the last one."""
        prompts = drawn_prompts(backbone, self.length, generator, self.first_values)
        first, last = backbone.blocks[0], backbone.blocks[-1]
        yield first[""], Insertion(prompts, first.num_prefix)
        yield last[""], Removal(self.length, last.num_prefix)
