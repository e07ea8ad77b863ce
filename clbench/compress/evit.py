"""Keep the patches that the class token attends to, and fuse the others into one.

Y. Liang, C. Ge, Z. Tong, Y. Song, J. Wang, P. Xie, "Not All Patches are What You Need: Expediting Vision
Transformers via Token Reorganizations" (EViT), ICLR 2022, arXiv 2202.07800. Behind the attention of blocks 3,
6 and 9 (of 12, from 0) k = ceil(keep (N - 1)) patches stay, those with the largest attention a of the class
token, averaged over the heads, in its order; the others x_i are fused into one token, sum a_i x_i, which
counts like a patch from then on.

While it is trained the keep rate falls from 1: it is 1 before epoch ``shrink_start``, then follows a cosine
over ``shrink_epochs``.

Differs from the paper, our choice: of another depth than 12 it is the blocks at a quarter, a half and three
quarters; distillation and register tokens stay, like the class token; in a stream the keep rate falls during
the first task alone, and from epoch to epoch, not from step to step as in the official code.
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
from clbench.compress.parts.places import CompressError, require_tokens

QUARTERS = (1, 2, 3)


@register("evit")
@dataclass(frozen=True)
class EViT(Compressor):
    """Drops or fuses patches of little attention; for Vision Transformers that read a class token."""

    keep: Annotated[float, Field(gt=0, le=1)] = 0.7  # share of the patches kept at each stage
    fuse: bool = True  # keep the others' weighted sum as one token; off: drop them
    shrink_start: Annotated[int, Field(ge=0)] = 0  # epochs with all patches; 10 of 300 in the paper
    shrink_epochs: Annotated[int, Field(ge=0)] = 0  # epochs of the fall behind them; 100 of 300; 0: none

    def steps(self, backbone: Backbone, passing: Passing) -> Iterator[tuple[Site, TokenStep]]:
        """Look at the class token's attention, and reorganise the tokens behind it."""
        model = require_tokens(backbone, "evit")
        if model.global_pool != "token":
            raise CompressError(
                "evit keeps what the class token attends to, and the features of"
                f" {backbone.name} are not read from one; use tome, or another backbone"
            )
        if self.keep == 1:
            return
        yield backbone.site("embed"), Begin(passing)
        for index in _stages(len(backbone.blocks)):
            block = backbone.blocks[index]
            yield block["attn.queries"], ClassQuery(passing)
            yield block["attn.keys"], ClassAttention(passing)
            yield block["between"], Reorganise(passing, self.keep, block.num_prefix, fuse=self.fuse)
            yield block[""], Carry(passing)
        yield backbone.pooled, Begin(passing)

    def tokens_after(self, num_tokens: int, num_prefix: int, depth: int) -> list[int]:
        """Return the number of tokens behind each block."""
        counts = []
        for index in range(depth):
            if index in _stages(depth):
                kept = _num_kept(self.keep, num_tokens - num_prefix)
                is_fused = self.fuse and kept < num_tokens - num_prefix
                num_tokens = num_prefix + kept + is_fused
            counts.append(num_tokens)
        return counts

    def degrees(self, depth: int) -> list[Compressor]:
        """Return the keep rates of the paper's tables."""
        return [replace(self, keep=keep) for keep in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)]

    def during(self, epoch: int) -> Compressor:
        """Return the keep rate of an epoch: a cosine from 1 to ``keep``."""
        if self.shrink_epochs == 0 or epoch >= self.shrink_start + self.shrink_epochs:
            return self
        done = max(0, epoch - self.shrink_start) / self.shrink_epochs
        return replace(self, keep=self.keep + (1 - self.keep) * (1 + math.cos(math.pi * done)) / 2)


class ClassQuery(Bound):
    """Leaves the query of the class token for the step at the keys."""

    def forward(self, output: Tensor) -> Tensor:
        """Return the queries (B, H, N, E) as they are."""
        self.passing.seen = output[:, :, :1]
        return output


class ClassAttention(Bound):
    """Leaves the class token's attention, averaged over the heads, for the step behind it."""

    def forward(self, output: Tensor) -> Tensor:
        """Return the keys (B, H, M, E) as they are."""
        query = self.passing.seen
        assert query is not None
        logits = (query * output.shape[-1] ** -0.5) @ output.transpose(-2, -1)
        self.passing.seen = logits.softmax(dim=-1).mean(dim=1)[:, 0]  # (B, M)
        return output


class Reorganise(Bound):
    """Keeps the best patches, and fuses the others where they are to be fused."""

    def __init__(self, passing: Passing, keep: float, num_prefix: int, *, fuse: bool) -> None:
        """Spare the ``num_prefix`` tokens in front."""
        super().__init__(passing)
        self.keep, self.num_prefix, self.fuse = keep, num_prefix, fuse

    def forward(self, output: Tensor) -> Tensor:
        """Return fewer tokens than (B, N, D)."""
        attention, self.passing.seen = self.passing.seen, None
        assert attention is not None
        num_patches = output.shape[1] - self.num_prefix
        kept = _num_kept(self.keep, num_patches)
        if kept == num_patches:
            return output
        attention = attention[:, -num_patches:]  # a prefix of keys stands in front
        order = attention.argsort(dim=-1, descending=True, stable=True)

        def reorganised(tokens: Tensor) -> Tensor:
            return _reorganised(tokens, attention, order, kept, self.num_prefix, fuse=self.fuse)

        self.passing.regroup = reorganised
        return reorganised(output)


def _reorganised(
    tokens_BND: Tensor, attention_BP: Tensor, order_BP: Tensor, kept: int, num_prefix: int, *, fuse: bool
) -> Tensor:
    parts = [tokens_BND[:, :num_prefix], gathered(tokens_BND, num_prefix + order_BP[:, :kept])]
    if fuse:
        dropped = order_BP[:, kept:]
        weights = attention_BP.gather(1, dropped)[..., None].to(tokens_BND.dtype)
        parts.append((gathered(tokens_BND, num_prefix + dropped) * weights).sum(dim=1, keepdim=True))
    return torch.cat(parts, dim=1)


def _stages(depth: int) -> list[int]:
    """Return the blocks that reorganise: 3, 6 and 9 of 12."""
    return sorted({quarter * depth // 4 for quarter in QUARTERS})


def _num_kept(keep: float, num_patches: int) -> int:
    return math.ceil(round(keep * num_patches, 9))  # 0.07 * 100 is more than 7 in floating point
