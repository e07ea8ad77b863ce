"""Say where tokens of a transformer can be changed, and refuse networks where they cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from clbench.backbones.backbone import Backbone
from clbench.errors import UserError

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


class CompressError(UserError, ValueError):
    """A backbone that cannot be compressed, not with these options, or not with what is attached to it."""

    options_are_at_fault = True


def require_tokens(backbone: Backbone, name: str) -> VisionTransformer:
    """Return the network; CompressError in one line unless its blocks see a sequence of tokens."""
    if any(block.grid is None or not block.has("attn.bias") for block in backbone.blocks):
        raise CompressError(
            f"{name} needs blocks that attend among a sequence of tokens, which those of {backbone.name} do"
            " not; use a Vision Transformer such as vit-micro or vit_tiny_patch16_224"
        )
    return cast("VisionTransformer", backbone.model)


def num_tokens_of(backbone: Backbone) -> tuple[int, int]:
    """Return the number of tokens that enter the first block, and how many of them are no patches."""
    first = backbone.blocks[0]
    assert first.grid is not None
    rows, columns = first.grid
    return first.num_prefix + rows * columns, first.num_prefix
