"""Drop the patches that differ least from the mean patch, once, in the middle of the network.

Say here whose compressor it is (authors, venue, arXiv) and, under "Differs from the paper:", what is another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Site, TokenStep
from clbench.compress import Compressor, register
from clbench.compress.parts.matching import gathered
from clbench.compress.parts.passing import Begin, Bound, Carry, Passing
from clbench.compress.parts.places import require_tokens


@register("example")
@dataclass(frozen=True)
class Example(Compressor):
    """Keeps a share of the patches; for Vision Transformers."""

    # Every field is an option: --compress example:keep=0.5, or --variant example:keep=0.5.
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5  # share of the patches that go on

    def steps(self, backbone: Backbone, passing: Passing) -> Iterator[tuple[Site, TokenStep]]:
        """Drop between attention and MLP of the block in the middle; with keep=1 do nothing at all."""
        require_tokens(backbone, "example")
        if self.keep == 1:
            return
        block = backbone.blocks[len(backbone.blocks) // 2]
        yield backbone.site("embed"), Begin(passing)  # what one pass knows is nothing to the next
        yield block["between"], Drop(passing, self.keep, block.num_prefix)
        yield block[""], Carry(passing)  # a branch beside the block sees the tokens that are left
        yield backbone.pooled, Begin(passing)

    def tokens_after(self, num_tokens: int, num_prefix: int, depth: int) -> list[int]:
        """Return the number of tokens behind each block."""
        kept = num_prefix + math.ceil(self.keep * (num_tokens - num_prefix))
        return [num_tokens if index < depth // 2 else kept for index in range(depth)]

    def degrees(self, depth: int) -> list[Compressor]:
        """Return what ``clbench list compress --backbone NAME`` measures, the plain network first."""
        return [replace(self, keep=keep) for keep in (1.0, 0.75, 0.5)]


class Drop(Bound):
    """Keeps the patches that stand out."""

    def __init__(self, passing: Passing, keep: float, num_prefix: int) -> None:
        """Spare the ``num_prefix`` class and register tokens in front."""
        super().__init__(passing)
        self.keep, self.num_prefix = keep, num_prefix

    def forward(self, output: Tensor) -> Tensor:
        """Return fewer tokens than (B, N, D)."""
        patches = output[:, self.num_prefix :].detach()
        contrast = (patches - patches.mean(dim=1, keepdim=True)).norm(dim=-1)
        best = contrast.topk(math.ceil(self.keep * patches.shape[1]), dim=-1).indices.sort(dim=-1).values

        def kept(tokens: Tensor) -> Tensor:
            behind = gathered(tokens[:, self.num_prefix :], best)
            return torch.cat((tokens[:, : self.num_prefix], behind), dim=1)

        self.passing.regroup = kept
        return kept(output)
