"""Scale the keys, the values and the hidden channels of the MLP by learned vectors.

H. Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning"
((IA)^3), NeurIPS 2022, arXiv 2205.05638: ``k <- l_k * k``, ``v <- l_v * v`` and ``h <- l_ff * h`` after the
activation, channel by channel, all ones at the start. The first two fold into rows of ``attn.qkv``, the last
into columns of ``mlp.fc2``.

Parameters of a ViT of L blocks of width D: L (2 D + 4 D); 55,296 for ViT-B/16.

In a ConvNeXt, which has no attention, the MLP alone is scaled, which is our choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import VTAB_RECIPE, Petl, register


class KeyValueScale(Branch):
    """``l_k * k`` and ``l_v * v`` on the output (..., 3 D) of a fused qkv layer."""

    def __init__(self, width: int) -> None:
        """Start with ones, of D = ``width`` channels."""
        super().__init__()
        self.key = nn.Parameter(torch.ones(width))
        self.value = nn.Parameter(torch.ones(width))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Scale the last two thirds of the output."""
        return output * self._rows()

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias with the rows of k and v scaled."""
        rows = self._rows()
        return rows[:, None] * weight, None if bias is None else rows * bias

    def _rows(self) -> Tensor:
        return torch.cat((torch.ones_like(self.key), self.key, self.value))


class InputScale(Branch):
    """``l * h`` on the channels h that a layer gets."""

    def __init__(self, width: int, *, maps: bool) -> None:
        """Start with ones; ``maps`` are (B, C, rows, columns), anything else is (..., C)."""
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.trailing = (1, 1) if maps else ()  # dimensions after the channels

    def before(self, inputs: Tensor) -> Tensor:
        """Scale the layer's input."""
        return inputs * self.scale.view(-1, *self.trailing)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the weight with its columns scaled, and the bias as it is."""
        return weight * self.scale.view(-1, *self.trailing), bias


@register("ia3")
@dataclass(frozen=True)
class IA3(Petl):
    """Identity at the start, mergeable."""

    mergeable: ClassVar[bool] = True
    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Scale what every block's attention, if any, and MLP work with."""
        for block in backbone.blocks:
            if block.heads:
                yield block["attn.qkv"], KeyValueScale(block.width)
            hidden, second = block["mlp.act"].width, block["mlp.fc2"]
            yield second, InputScale(hidden, maps=second.channels_first)
