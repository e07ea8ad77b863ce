"""Put a small convolutional bottleneck beside the attention of every block: ``convpass`` at half the price.

S. Jie, Z.-H. Deng, "Convolutional Bypasses Are Better Vision Transformer Adapters", 2022, arXiv 2207.07039;
``bypass.py`` has the formula. A ConvNet has no attention and is refused.

Parameters of a ViT of L blocks of width D: L ((2 h + 1) D + 9 h^2 + 2 h); 163,776 for ViT-B/16 with the
defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import register
from clbench.petl.parts.bypass import ConvolutionalBypass


@register("convpass-attn")
@dataclass(frozen=True)
class ConvpassAttention(ConvolutionalBypass):
    """Identity at the start, not mergeable."""

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put a bypass beside the attention of every block."""
        for block in backbone.blocks:
            yield self.beside(block, "attn", generator)
