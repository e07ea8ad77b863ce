"""Dispatch on the class of a timm model to the function that opens it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatch

from torch import nn

from clbench.backbones.sites import BlockSites, Site


@dataclass(frozen=True)
class Opened:
    """The sites of a model that has just been opened."""

    blocks: list[BlockSites]
    sites: dict[str, Site] = field(default_factory=dict)  # outside blocks: "embed", "pooled"
    grid: tuple[int, int] | None = None


@singledispatch
def opened(model: nn.Module) -> Opened:
    """Open a model, in place, after its classifier was removed; a family's file registers its own way."""
    raise TypeError(
        f"cannot open a {type(model).__name__}: clbench opens ViT, Swin, ConvNeXt and ResNet families of timm"
    )
