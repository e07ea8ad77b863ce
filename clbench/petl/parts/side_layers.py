"""Make what side networks consist of: their widths, projections from the trunk, and the pooling of tokens.

Shape letters: B batch, N tokens, Q tokens that the features are made of, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from timm.layers import global_pool_nlc
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import NoSuchSiteError
from clbench.petl.parts.divisors import check_divides
from clbench.petl.parts.initialise import kaiming_uniform

EPSILON = 1e-6  # of layer norms, as in timm's ViTs
LARGEST = 8  # reduction that is taken where none is asked for: r of the papers


@dataclass(frozen=True)
class Pooling:
    """How tokens (B, N, D) become features (B, D): as the backbone's own do."""

    kind: str  # timm's name
    num_prefix: int  # class and register tokens in front of the patches
    keeps_prefix: bool  # whether an average is over those, too

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the features (B, D) of tokens (B, Q, D) that ``pooled_ones`` chose, or of all."""
        pooled: Tensor = global_pool_nlc(tokens, self.kind, self.num_prefix, self.keeps_prefix)
        return pooled

    def pooled_ones(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, Q, D) at the front that suffice: the first, or all."""
        return tokens[:, :1] if self.kind == "token" else tokens


def pooling_of(backbone: Backbone) -> Pooling:
    """Return the pooling of a ViT."""
    model = cast("VisionTransformer", backbone.model)
    return Pooling(model.global_pool, model.num_prefix_tokens, model.pool_include_prefix)


def require_sequence(backbone: Backbone) -> None:
    """Raise NoSuchSiteError where blocks see no sequence of tokens, or attention makes features of them."""
    is_sequence = all(block.grid is not None for block in backbone.blocks)
    if is_sequence and cast("VisionTransformer", backbone.model).attn_pool is not None:
        raise NoSuchSiteError(
            f"a side network gives the features, and {backbone.name} makes its own by attention over the"
            " tokens: use a Vision Transformer that takes the class token or a mean, such as vit-micro"
        )
    if not is_sequence:
        raise NoSuchSiteError(
            f"a side network reads the same tokens behind every block; those of {backbone.name} see maps: use"
            " a Vision Transformer such as vit-micro"
        )


def reduction_of(asked: int, what: str, number: int) -> int:
    """Return the reduction asked for, or for 0 the largest up to 8 that divides ``number``.

    DivisorError says ``what`` that number is, and which are the nearest that divide it.
    """
    if asked:
        check_divides("reduction", asked, what, number)
        return asked
    return max(divisor for divisor in range(1, LARGEST + 1) if number % divisor == 0)


def drawn_linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer whose weight and bias are drawn from U(-1/sqrt(inputs), 1/sqrt(inputs))."""
    with torch.device("meta"):  # nothing is drawn from a global generator
        layer = nn.Linear(inputs, outputs)
    layer.to_empty(device="cpu")
    draw(layer, generator)
    return layer


@torch.no_grad()
def draw(layer: nn.Linear, generator: torch.Generator) -> None:
    """Draw weight and bias of a layer anew, as ``drawn_linear`` does."""
    kaiming_uniform(layer.weight, generator)
    bound = layer.in_features**-0.5
    layer.bias.uniform_(-bound, bound, generator=generator)


def projection(inputs: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    """Return LN(Linear(h)): how ``unipt`` and ``sherl`` read the tokens of one depth."""
    return nn.Sequential(drawn_linear(inputs, outputs, generator), nn.LayerNorm(outputs, eps=EPSILON))
