"""Hold what ``lora-qv`` and ``lora-fused`` share: low-rank updates of parts of a linear layer."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.backbones.sites import BlockSites, Branch, Site
from clbench.petl import VTAB_RECIPE
from clbench.petl.parts.initialise import kaiming_uniform
from clbench.petl.parts.two_rates import TwoRates


class LowRankUpdate(Branch):
    """``W_i + s B_i A_i`` for some of the equal parts W_i that the rows of a weight are cut into.

    E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        rank: int,
        *,
        num_parts: int,
        updated: Sequence[int],
        scale: float,
        generator: torch.Generator,
    ) -> None:
        """Update the parts with the indices ``updated`` of a weight (outputs, inputs) of this shape.

        A (rank, inputs) is drawn Kaiming-uniformly from ``generator``; B starts at zero.
        """
        super().__init__()
        outputs, inputs = shape
        self.down = nn.ParameterList(torch.empty(rank, inputs) for _ in updated)  # A
        self.up = nn.ParameterList(torch.zeros(outputs // num_parts, rank) for _ in updated)  # B
        for down in self.down:
            kaiming_uniform(down, generator)
        self.num_parts = num_parts
        self.updated = tuple(updated)
        self.scale = scale

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the updates to their parts of the output (..., outputs)."""
        parts = list(output.chunk(self.num_parts, dim=-1))
        for index, down, up in zip(self.updated, self.down, self.up, strict=True):
            parts[index] = parts[index] + self.scale * (inputs @ down.T @ up.T)
        return torch.cat(parts, dim=-1)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the weight with the updates added to their rows, and the bias as it is."""
        parts = list(weight.chunk(self.num_parts))
        for index, down, up in zip(self.updated, self.down, self.up, strict=True):
            parts[index] = parts[index] + self.scale * (up @ down)
        return torch.cat(parts), bias


@dataclass(frozen=True)
class LowRankAdaptation(TwoRates, ABC):
    """LoRA on the fused qkv layer, without the choice of its parts: identity at the start, mergeable."""

    mergeable: ClassVar[bool] = True
    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE
    faster: ClassVar[tuple[str, ...]] = ("up",)

    rank: Annotated[int, Field(ge=1)] = 8  # r
    alpha: Annotated[float, Field(ge=0)] = 0.0  # numerator of the scale alpha / r; 0: r, a scale of 1

    def update(
        self, block: BlockSites, *, num_parts: int, updated: Sequence[int], generator: torch.Generator
    ) -> tuple[Site, LowRankUpdate]:
        """Return the fused qkv layer of a block with a new update for some of its equal parts."""
        qkv = block["attn.qkv"]
        update = LowRankUpdate(
            (qkv.width, block.width),
            self.rank,
            num_parts=num_parts,
            updated=updated,
            scale=self.alpha / self.rank or 1.0,
            generator=generator,
        )
        return qkv, update
