"""Learn a few tokens that the first block gets beside the image's.

M. Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv 2203.12119, VPT-shallow: p prompts are inserted after
the class token before the first block, pass through all blocks, and are left out of the features.

Differs from the paper: one learning rate of the grid that it searches, 0.25 / 256 for each image of a batch
of 24, and no weight decay; and our classifiers start in their own way, not with a bias of -log 99.

Not the identity at the start. Parameters of a ViT of width D: p D; 38,400 for ViT-B/16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import Petl, register
from clbench.petl.parts.prompts import Insertion, Removal, drawn_prompts


@register("vpt-shallow")
@dataclass(frozen=True)
class ShallowPrompts(Petl):
    """Not the identity at the start, not mergeable; for ViTs."""

    identity_at_start: ClassVar[bool] = False
    recipe: ClassVar[dict[str, Any]] = {"optimizer": "sgd", "learning_rate": 0.025, "momentum": 0.9}

    length: Annotated[int, Field(ge=1)] = 50  # prompts, p

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Insert the prompts before the first block and take them out after the last one."""
        prompts = drawn_prompts(backbone, self.length, generator)
        first, last = backbone.blocks[0], backbone.blocks[-1]
        yield first[""], Insertion(prompts, first.num_prefix)
        yield last[""], Removal(self.length, last.num_prefix)
