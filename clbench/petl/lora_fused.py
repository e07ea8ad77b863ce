"""Add a low-rank update to the fused query, key and value projection of every block.

E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685, on one linear
layer (3 D, D): ``W + (alpha / r) B A`` with one A that queries, keys and values share. So computes the code
that the LoRA row of the VTAB-1k tables comes from (NOAH, arXiv 2206.04673), and so does Hugging Face peft.

Parameters of a ViT of L blocks of width D: 4 L r D; 294,912 for ViT-B/16 with the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import register
from clbench.petl.parts.low_rank import LowRankAdaptation


@register("lora-fused")
@dataclass(frozen=True)
class LoRAFused(LowRankAdaptation):
    """LoRA on queries, keys and values at once: identity at the start, mergeable."""

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Update the fused qkv layer of every block."""
        for block in backbone.blocks:
            yield self.update(block, num_parts=1, updated=(0,), generator=generator)
