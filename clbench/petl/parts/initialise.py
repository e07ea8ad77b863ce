"""Say what LAE's modules share: which blocks they adapt, and how their first matrix is drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import BlockSites, NoSuchSiteError


def first_blocks(backbone: Backbone, num_blocks: int) -> list[BlockSites]:
    """Return the first ``num_blocks`` blocks, or for 0 the first 5/12 of them, rounded up.

    5/12 is what LAE adapts in each of its three backbones: 5 of 12 (ViT), 10 of 24 (Swin), 15 of 36
    (ConvNeXt).
    """
    depth = len(backbone.blocks)
    if num_blocks > depth:
        raise NoSuchSiteError(f"petl.num_blocks: {num_blocks} blocks asked for; {backbone.name} has {depth}")
    return backbone.blocks[: num_blocks or math.ceil(depth * 5 / 12)]


@torch.no_grad()
def kaiming_uniform(weight: Tensor, generator: torch.Generator) -> None:
    """Fill a weight (O, I, ...) from U(-1/sqrt(fan_in), 1/sqrt(fan_in)): Kaiming uniform with a = sqrt(5)."""
    bound = 1 / math.sqrt(weight[0].numel())
    weight.uniform_(-bound, bound, generator=generator)
