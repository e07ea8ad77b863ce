"""Add a low-rank update of low-bit weights to the query and value projections of every block (Bi-LoRA).

S. Jie, H. Wang, Z.-H. Deng, "Revisiting the Parameter Efficiency of Adapters from the Perspective of
Precision Redundancy", ICCV 2023, arXiv 2307.16867: ``q + s Up_q(dropout(Down_q(u)))`` and the same for v, u
being the normalised input of the attention; keys and biases stay. The weights are trained through their
quantised values (``clbench.quant.parts.gauss_codebook``) and stored packed.

Not the identity at the start, but for 32 bits: Up is small, and quantised it has no zeros.
Parameters of a ViT of L blocks of width D: 4 r L D; 1,179,648 for ViT-B/16 with the defaults.
Stored: bits / 8 bytes a parameter and 32 L; 147,840 bytes for ViT-B/16 with the defaults.

Differs from the paper:
- Its images are not normalised: ``--set backbone.normalise=unit``.
- It chooses s per data set from 0.01, 0.1, 1, 10, 100 (for CIFAR-100 0.1, or 1 where r = 1); 1 is our choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import VTAB_RECIPE, register
from clbench.petl.parts.low_bit import Bits, low_bit_pair
from clbench.petl.parts.two_rates import TwoRates


class QueryValueUpdate(Branch):
    """Rows of Q += s Up_q Down_q, rows of V += s Up_v Down_v, on a fused qkv layer (3 D, D)."""

    def __init__(
        self, width: int, rank: int, bits: Bits, scale: float, dropout: float, generator: torch.Generator
    ) -> None:
        """Draw Down and Up of the queries, then of the values."""
        super().__init__()
        self.query_down, self.query_up = low_bit_pair(width, rank, bits, generator)
        self.value_down, self.value_up = low_bit_pair(width, rank, bits, generator)
        self.scale, self.dropout = scale, dropout

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the updates to the first and the last third of the output (B, N, 3 D)."""
        query = self.query_up(F.dropout(self.query_down(inputs), self.dropout, self.training))
        value = self.value_up(F.dropout(self.value_down(inputs), self.dropout, self.training))
        q, k, v = output.chunk(3, dim=-1)
        return torch.cat((q + self.scale * query, k, v + self.scale * value), dim=-1)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight + s cat(Up_q Down_q, 0, Up_v Down_v) of quantised weights, and the bias as it is."""
        unit = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        query, value = self.query_up(self.query_down(unit)).T, self.value_up(self.value_down(unit)).T
        return weight + self.scale * torch.cat((query, torch.zeros_like(query), value)), bias


@register("bi-lora")
@dataclass(frozen=True)
class BiLoRA(TwoRates):
    """LoRA of 1 to 8 bits a weight on queries and values: not the identity at the start, mergeable."""

    identity_at_start: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE
    faster: ClassVar[tuple[str, ...]] = ("query_up", "value_up")

    rank: Annotated[int, Field(ge=1)] = 32  # 1 is the paper's tiny form
    bits: Bits = 1  # a weight; 32: not quantised
    scale: Annotated[float, Field(gt=0)] = 1.0  # s, which multiplies what is added; not learnt
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # between Down and Up

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one update on the fused qkv layer of every block."""
        for block in backbone.blocks:
            site = block["attn.qkv"]
            width = site.width // 3
            yield site, QueryValueUpdate(width, self.rank, self.bits, self.scale, self.dropout, generator)
