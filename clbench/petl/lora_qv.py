"""Add a low-rank update to the query and the value projection of every block.

E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685:
``W + (alpha / r) B A``, with an A and a B of their own for queries and for values; biases stay frozen.

Parameters of a ViT of L blocks of width D: 4 L r D; 294,912 for ViT-B/16 with the defaults. The published
VTAB-1k tables describe this form but were made with ``lora-fused``, which has as many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import register
from clbench.petl.parts.low_rank import LowRankAdaptation

QUERY, VALUE = 0, 2  # which third of the rows of a fused qkv layer


@register("lora-qv")
@dataclass(frozen=True)
class LoRAQueryValue(LowRankAdaptation):
    """LoRA on queries and values: identity at the start, mergeable."""

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Update two thirds of the fused qkv layer of every block."""
        for block in backbone.blocks:
            yield self.update(block, num_parts=3, updated=(QUERY, VALUE), generator=generator)
