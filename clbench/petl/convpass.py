"""Put a small convolutional bottleneck beside the attention and the MLP of every block.

S. Jie, Z.-H. Deng, "Convolutional Bypasses Are Better Vision Transformer Adapters", 2022, arXiv 2207.07039;
``bypass.py`` has the formula and what differs from the paper. A frozen transformer so gains the convolutional
bias that it lacks where images are few.

Parameters of a ViT of L blocks of width D: 2 L ((2 h + 1) D + 9 h^2 + 2 h); 327,552 for ViT-B/16 with the
defaults.

On a Swin the convolution crosses the borders of the windows. A ConvNeXt has no attention: it gets the bypass
of the MLP alone, where its LayerScale scales the bypass, too (our choice). A ResNet has neither sub-layer and
is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import register
from clbench.petl.parts.bypass import ConvolutionalBypass


@register("convpass")
@dataclass(frozen=True)
class Convpass(ConvolutionalBypass):
    """Identity at the start, not mergeable."""

    where: Literal["attn", "mlp", "both"] = "both"  # the sub-layers that get a bypass

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put a bypass beside the chosen sub-layers of every block."""
        for block in backbone.blocks:
            if self.where == "attn" or (self.where == "both" and block.has("attn")):
                yield self.beside(block, "attn", generator)
            if self.where != "attn":
                yield self.beside(block, "mlp", generator)
