"""Read all blocks of the trunk at once, each by attention of the last one's tokens, and weigh what they say.

H. Diao, B. Wan, Y. Zhang, X. Jia, H. Lu, L. Chen, "UniPT: Universal Parallel Tuning for Transfer Learning
with Efficient Parameter and Memory", CVPR 2024, arXiv 2308.14316. With h_l behind block l of the trunk,
detached,

    d_l = LN(F_l(h_l))                                  l = 0..L;  A = d_L
    w_l = relu(A d_l^T), each row divided by its sum, + I    l = 0..L-1
    c_l = w_l d_l,   s_l = g(mean(A) * mean(d_l)),   p = softmax(s) over l
    features = U(relu(A + P(sum_l p_l c_l))), pooled

where F_l, g and U are linear with bias, P is a linear layer and a LayerNorm, and means are over all tokens.
There is no recurrence over the blocks. The trunk is frozen, and no tensor from inside of it is kept for the
backward pass.

Not the identity at the start. Parameters for ViT-B/16: 1,046,305.

Differs from the paper, which adapts BERT and dual encoders; for ViTs this is our choice:
- The features are pooled as the backbone pools its own: of the class token (of a distilled DeiT that alone),
  whose row of w_l alone is then computed, or the mean of the patches. The head is the strategy's.
- There is no mask, since images have no padding.
- r is the largest number up to 8 that divides the width, where none is given.
- The published code's other form, for a single pooled feature of a CLIP tower, is left out.

Shape letters: B batch, N tokens, Q tokens that the features are made of, D width of the trunk, E = D / r.
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
from clbench.petl import Petl, register
from clbench.petl.parts.side_layers import (
    Pooling,
    drawn_linear,
    pooling_of,
    projection,
    reduction_of,
    require_sequence,
)
from clbench.petl.parts.side_network import SideNetwork, beside

EPSILON = 1e-8  # beside the sum of a row, which may be 0


class Parallel(SideNetwork):
    """F_l and its norm of each depth 0..L, and the layers g, P and U."""

    def __init__(
        self,
        num_blocks: int,
        *,
        width: int,
        side_width: int,
        output_width: int,
        pooling: Pooling,
        generator: torch.Generator,
    ) -> None:
        """Draw all layers."""
        super().__init__()
        self.reads = nn.ModuleList(projection(width, side_width, generator) for _ in range(num_blocks + 1))
        self.score = drawn_linear(side_width, 1, generator)  # g
        self.mix = projection(side_width, side_width, generator)  # P
        self.up = drawn_linear(side_width, output_width, generator)  # U
        self.pooling = pooling

    def absorb(self, held: list[Tensor], tokens: Tensor, depth: int) -> list[Tensor]:
        """Return d_0 .. d_depth, (B, N, E) each."""
        return [*held, self.reads[depth](tokens)]

    def outcome(self, held: list[Tensor]) -> Tensor:
        """Return the features (B, D); pooling before U is the same, since U is affine."""
        *layers, anchor = held
        asking_BQE = self.pooling.pooled_ones(anchor)
        contexts = torch.stack([context(asking_BQE, layer) for layer in layers])  # c, (L, B, Q, E)
        means = torch.stack([layer.mean(dim=1) for layer in layers])
        share_LB1 = torch.softmax(self.score(anchor.mean(dim=1) * means), dim=0)  # p
        mixed = self.mix((share_LB1[:, :, None] * contexts).sum(dim=0))
        features: Tensor = self.up(self.pooling(torch.relu(asking_BQE + mixed)))
        return features


def context(asking_BQE: Tensor, layer_BNE: Tensor) -> Tensor:
    """Return w d (B, Q, E) of one depth: what the first Q tokens find there, and themselves as they are."""
    weight_BQN = torch.relu(asking_BQE @ layer_BNE.mT)
    weight_BQN = weight_BQN / (weight_BQN.sum(dim=-1, keepdim=True) + EPSILON)
    return weight_BQN @ layer_BNE + layer_BNE[:, : asking_BQE.shape[1]]


@register("unipt")
@dataclass(frozen=True)
class UniPT(Petl):
    """Not the identity at the start, not mergeable; for ViTs."""

    identity_at_start: ClassVar[bool] = False
    without_effect: ClassVar[tuple[str, ...]] = ("score.bias",)  # the softmax cancels it; the paper has it

    reduction: Annotated[int, Field(ge=0)] = 0  # r, divides the width; 0: the largest that does up to 8

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one parallel network beside the whole trunk."""
        require_sequence(backbone)
        width = backbone.blocks[0].width
        network = Parallel(
            len(backbone.blocks),
            width=width,
            side_width=width // reduction_of(self.reduction, "the width of a block", width),
            output_width=backbone.width,
            pooling=pooling_of(backbone),
            generator=generator,
        )
        yield from beside(backbone, network)
