"""Put learned tokens among those of an image, and take them out again.

M. Jia et al., "Visual Prompt Tuning" (VPT), ECCV 2022, arXiv 2203.12119. The prompts stand after the class
token, without a position embedding, and start from the Xavier bound of the patch embedding, U(-b, b) with
b = sqrt(6 / (3 P^2 + D)). Where they stand makes no difference to an attention without a mask.

Shape letters: B batch, N tokens, D width, K prompts, P pixels a side of a patch.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, NoSuchSiteError

TOKENS = "prompts are tokens, which no weight can hold"


class Insertion(Branch):
    """Prompts (K, D) among the tokens that a block gets."""

    needs_all_tokens: ClassVar[bool] = True
    unmergeable = TOKENS

    def __init__(self, prompts: Tensor, num_prefix: int) -> None:
        """Insert ``prompts`` after the ``num_prefix`` class and register tokens."""
        super().__init__()
        self.prompts = nn.Parameter(prompts)
        self.num_prefix = num_prefix

    def before(self, inputs: Tensor) -> Tensor:
        """Return the tokens (B, N + K, D)."""
        return with_prompts(inputs, self.prompts, self.num_prefix)


class Removal(Branch):
    """The tokens that a block gives, without the prompts."""

    needs_all_tokens: ClassVar[bool] = True
    unmergeable = TOKENS

    def __init__(self, length: int, num_prefix: int) -> None:
        """Take out ``length`` tokens after the first ``num_prefix``."""
        super().__init__()
        self.length, self.num_prefix = length, num_prefix

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the tokens (B, N, D)."""
        return without_prompts(output, self.length, self.num_prefix)


def with_prompts(tokens: Tensor, prompts: Tensor, num_prefix: int) -> Tensor:
    """Insert prompts (K, D) after the first ``num_prefix`` of the tokens (B, N, D)."""
    inserted = prompts.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
    return torch.cat((tokens[:, :num_prefix], inserted, tokens[:, num_prefix:]), dim=1)


def without_prompts(tokens: Tensor, length: int, num_prefix: int) -> Tensor:
    """Take ``length`` prompts out after the first ``num_prefix`` of the tokens (B, K + N, D)."""
    return torch.cat((tokens[:, :num_prefix], tokens[:, num_prefix + length :]), dim=1)


def drawn_prompts(
    backbone: Backbone,
    length: int,
    generator: torch.Generator,
    first_values: Literal["drawn", "zeros"] = "drawn",
) -> Tensor:
    """Return new prompts for one block; NoSuchSiteError where blocks see no sequence of tokens."""
    require_sequence(backbone)
    width = backbone.blocks[0].width
    if first_values == "zeros":
        return torch.zeros(length, width)
    patches = cast("nn.Conv2d", backbone.site("patches").layer)
    bound = math.sqrt(6 / (patches.weight[0].numel() + width))
    return torch.empty(length, width).uniform_(-bound, bound, generator=generator)


def require_sequence(backbone: Backbone) -> None:
    """Raise NoSuchSiteError where blocks see no sequence of tokens."""
    if any(block.grid is None for block in backbone.blocks):
        raise NoSuchSiteError(
            f"prompts need blocks that see a sequence of tokens; those of {backbone.name} see maps"
        )
