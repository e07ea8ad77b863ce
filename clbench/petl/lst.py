"""Read the trunk's blocks by ladders into a narrow transformer beside it, whose output are the features.

Y.-L. Sung, J. Cho, M. Bansal, "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning",
NeurIPS 2022, arXiv 2206.06522. With h_l behind block l of the trunk, detached, and scalars a_l from 0,

    z_0 = F_0(h_0)
    m_l = sigmoid(a_l / 0.1)
    z_l = SideBlock_l(m_l z_{l-1} + (1 - m_l) F_l(h_l))        l = 1..L
    features = U(LN(z_L)), pooled

where F_l and U are linear with bias and a side block has the trunk's form, at 1/r of its width D, with as
many heads. The trunk is frozen, and no tensor from inside of it is kept for the backward pass.

Not the identity at the start. Parameters for ViT-B/16: 2,376,492; without 3 of the blocks, 9 side blocks and
10 ladders: 1,819,497.

Differs from the paper, which adapts T5 and CLIP-T5; for ViTs all of this is our choice:
- The features are pooled as the backbone pools its own: the class token (of a distilled DeiT that alone), the
  mean of the patches where it averages them. The head is the strategy's.
- ``init=pruned``: side blocks start from those rows and columns of the trunk's blocks that weigh most: see
  ``clbench.petl.parts.pruning``. Importance is by L1 norms alone, not by an empirical Fisher matrix.
- r is the largest number up to 8 that divides the width of a head, where none is given.
- The side blocks have no stochastic depth, no LayerScale and no norm of single queries and keys.

Shape letters: B batch, N tokens, D width of the trunk, E = D / r.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, NoSuchSiteError, Site
from clbench.errors import UserError
from clbench.petl import Petl, register
from clbench.petl.parts.pruning import kept_channels, pruned_block
from clbench.petl.parts.side_layers import (
    EPSILON,
    Pooling,
    draw,
    drawn_linear,
    pooling_of,
    reduction_of,
    require_sequence,
)
from clbench.petl.parts.side_network import SideNetwork, beside

TEMPERATURE = 0.1  # T, of the gates
MLP_RATIO = 4


class DroppedBlocksError(UserError, ValueError):
    """Blocks to drop that are no numbers of blocks."""


class Ladder(SideNetwork):
    """F_0, and of each depth that is not dropped F_l, a_l and a side block; then LN and U."""

    def __init__(
        self,
        ladders: list[nn.Linear],
        blocks: list[nn.Module],
        up: nn.Linear,
        *,
        kept: list[int],
        pooling: Pooling,
    ) -> None:
        """Take F_0 and F_l, and side blocks, of the depths ``kept``, numbers in 1..L; and U."""
        super().__init__()
        self.ladders, self.blocks = nn.ModuleList(ladders), nn.ModuleList(blocks)
        self.gates = nn.Parameter(torch.zeros(len(blocks)))  # a_l
        self.norm, self.up = nn.LayerNorm(up.in_features, eps=EPSILON), up
        self.places = {depth: place for place, depth in enumerate(kept)}
        self.pooling = pooling

    @property
    def side_width(self) -> int:
        """Width of the side blocks, E."""
        return self.up.in_features

    def absorb(self, held: list[Tensor], tokens: Tensor, depth: int) -> list[Tensor]:
        """Return z (B, N, E) of this depth alone."""
        if depth == 0:
            return [self.ladders[0](tokens)]
        if depth not in self.places:
            return held
        place = self.places[depth]
        mixed = climbed(held[-1], self.ladders[1 + place](tokens), self.gates[place])
        return [self.blocks[place](mixed)]

    def outcome(self, held: list[Tensor]) -> Tensor:
        """Return the features (B, D); pooling before U is the same, since U is affine."""
        features: Tensor = self.up(self.pooling(self.norm(held[-1])))
        return features


def climbed(below: Tensor, beside: Tensor, gate: Tensor) -> Tensor:
    """Return m z + (1 - m) F(h), m = sigmoid(a / T): what a side block gets."""
    share = torch.sigmoid(gate / TEMPERATURE)
    return share * below + (1 - share) * beside


@register("lst")
@dataclass(frozen=True)
class LST(Petl):
    """Not the identity at the start, not mergeable; for ViTs."""

    identity_at_start: ClassVar[bool] = False
    recipe: ClassVar[dict[str, Any]] = {"optimizer": "adamw", "learning_rate": 3e-3}

    reduction: Annotated[int, Field(ge=0)] = 0  # r, divides the width of a head; 0: the largest up to 8
    init: Literal["pruned", "random"] = "pruned"  # side blocks from the trunk's own, or drawn
    dropped_blocks: Annotated[str, Field(pattern=r"^(\d+(,\d+)*)?$")] = (
        ""  # numbers from 0 of those that get no ladder and no side block, as in 0,4,8
    )

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one ladder network beside the whole trunk."""
        yield from beside(backbone, self.network(backbone, generator))

    def network(self, backbone: Backbone, generator: torch.Generator) -> Ladder:
        """Return the side network of a backbone; NoSuchSiteError where there can be none."""
        require_sequence(backbone)
        blocks, width = backbone.blocks, backbone.blocks[0].width
        if not all(block.heads for block in blocks):
            raise NoSuchSiteError(f"lst needs plain blocks with attention, which {backbone.name} lacks")
        heads = blocks[0].heads
        side_width = width // reduction_of(self.reduction, "the width of a head", width // heads)
        kept = [block for block in blocks if block.index not in self.dropped(len(blocks))]
        sides = [drawn_block(side_width, heads, generator) for _ in kept]
        ladders = [drawn_linear(width, side_width, generator) for _ in range(1 + len(kept))]
        up = drawn_linear(side_width, backbone.width, generator)
        if self.init == "pruned":
            channels = kept_channels(backbone, side_width)
            sides = [pruned_block(side, block, channels) for side, block in zip(sides, kept, strict=True)]
        depths = [block.index + 1 for block in kept]
        return Ladder(ladders, sides, up, kept=depths, pooling=pooling_of(backbone))

    def dropped(self, depth: int) -> set[int]:
        """Return the numbers of the blocks that are dropped of so many."""
        numbers = {int(number) for number in self.dropped_blocks.split(",") if number}
        beyond = [number for number in sorted(numbers) if number >= depth]
        if beyond:
            raise DroppedBlocksError(
                f"petl.dropped_blocks: no block {beyond[0]} of {depth}; use numbers in 0..{depth - 1}"
            )
        return numbers


def drawn_block(width: int, heads: int, generator: torch.Generator) -> Block:
    """Return a plain block of timm's, its linear layers drawn as torch would draw them."""
    with torch.device("meta"):  # nothing is drawn from a global generator
        block = Block(width, heads, MLP_RATIO, qkv_bias=True, norm_layer=nn.LayerNorm)
    block.to_empty(device="cpu")
    for part in block.modules():
        if isinstance(part, nn.Linear):
            draw(part, generator)
        elif isinstance(part, nn.LayerNorm):
            part.eps = EPSILON
            part.reset_parameters()
    return block
