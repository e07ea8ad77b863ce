"""Add a low-rank update to the key and value projections of a block.

E. Hu et al., "LoRA", ICLR 2022, arXiv 2106.09685, in the form of LAE (Q. Gao et al., ICCV 2023, arXiv
2303.10070): keys and values only, a learnable scale s (start 1) instead of alpha / r, biases untouched.

Parameters a block of width D: 4 r D + 2; 76,810 for ViT-B/16 with the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import register
from clbench.petl.parts.initialise import first_blocks, kaiming_uniform
from clbench.petl.parts.two_rates import TwoRates


class KeyValueUpdate(Branch):
    """Rows of K += s_k B_k A_k, rows of V += s_v B_v A_v, on a fused qkv layer (3 D, D)."""

    def __init__(self, width: int, rank: int, generator: torch.Generator) -> None:
        """Draw A (rank, width) of both from ``generator``; B (width, rank) starts at zero."""
        super().__init__()
        self.key_down, self.value_down = (nn.Parameter(torch.empty(rank, width)) for _ in range(2))
        self.key_up, self.value_up = (nn.Parameter(torch.zeros(width, rank)) for _ in range(2))
        self.key_scale, self.value_scale = (nn.Parameter(torch.ones(())) for _ in range(2))
        kaiming_uniform(self.key_down, generator)
        kaiming_uniform(self.value_down, generator)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the updates to the last two thirds of the output (B, N, 3 D)."""
        key = self.key_scale * (inputs @ self.key_down.T @ self.key_up.T)
        value = self.value_scale * (inputs @ self.value_down.T @ self.value_up.T)
        q, k, v = output.chunk(3, dim=-1)
        return torch.cat((q, k + key, v + value), dim=-1)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight + cat(0, s_k B_k A_k, s_v B_v A_v), and the bias as it is."""
        key = self.key_scale * (self.key_up @ self.key_down)
        value = self.value_scale * (self.value_up @ self.value_down)
        return weight + torch.cat((torch.zeros_like(key), key, value)).detach(), bias


@register("lora")
@dataclass(frozen=True)
class LoRA(TwoRates):
    """LoRA on keys and values: identity at the start, mergeable."""

    mergeable: ClassVar[bool] = True
    faster: ClassVar[tuple[str, ...]] = ("key_up", "value_up")

    rank: Annotated[int, Field(ge=1)] = 5
    num_blocks: Annotated[int, Field(ge=0)] = 0  # the first blocks to adapt; 0: 5/12 of them, as in the paper

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one update on the fused qkv layer of each of the first blocks."""
        for block in first_blocks(backbone, self.num_blocks):
            yield block["attn.qkv"], KeyValueUpdate(block["attn.qkv"].width // 3, self.rank, generator)
