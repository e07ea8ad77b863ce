"""Put a linear bottleneck before the attention and the MLP of every block, and fold it away afterwards.

G. Luo et al., "Towards Efficient Visual Adaption via Structural Re-parameterization" (RepAdapter), 2023,
arXiv 2302.08106: ``z <- z + s (B dropout(A z + a) + b)`` on the normalised tokens that ``attn.qkv`` and
``mlp.fc1`` see. B is a grouped layer: each half of the channels is made from one half of the bottleneck.
There is no activation, so a layer ``W z + c`` after it becomes ``W (I + s B A) z + W s (B a + b) + c``.

Parameters of a ViT of L blocks of width D: 2 L (r D + r + r D / 2 + D); 239,808 for ViT-B/16 with the
defaults. (The 0.22 M of the paper are its 221,184 weights without biases.)

A ConvNeXt has it before ``mlp.fc1`` alone. The published code also puts one before the depthwise
convolution, which it cannot be folded into.

Shape letters: D width, R rank, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import VTAB_RECIPE, Petl, register

GROUPS = 2  # of the second layer


class LinearBottleneck(Branch):
    """A layer of ``z + s (B (A z + a) + b)`` instead of z; nothing at the start because B and b are zero."""

    def __init__(
        self, width: int, rank: int, *, scale: float, dropout: float, maps: bool, generator: torch.Generator
    ) -> None:
        """Draw A (R, D) from ``generator``, Xavier-uniformly; ``maps`` are (B, D, rows, columns)."""
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, width))  # A
        self.down_bias = nn.Parameter(torch.zeros(rank))  # a
        self.up = nn.Parameter(torch.zeros(GROUPS, width // GROUPS, rank // GROUPS))  # the blocks of B
        self.up_bias = nn.Parameter(torch.zeros(width))  # b
        nn.init.xavier_uniform_(self.down, generator=generator)
        self.scale = scale
        self.dropout = dropout
        self.channels = 1 if maps else -1  # dimension of the channels

    def before(self, inputs: Tensor) -> Tensor:
        """Add the bottleneck's view of the layer's input to it."""
        hidden = F.linear(inputs.movedim(self.channels, -1), self.down, self.down_bias)
        hidden = F.dropout(hidden, self.dropout, self.training)
        added = F.linear(hidden, self._up_DR(), self.up_bias)
        return inputs + self.scale * added.movedim(-1, self.channels)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return W (I + s B A) and W s (B a + b) + c; a 1 x 1 convolution is such a layer, too."""
        weight_OD, up_DR = weight.flatten(1), self._up_DR()
        folded = weight_OD + self.scale * (weight_OD @ up_DR) @ self.down
        shift = weight_OD @ (self.scale * (up_DR @ self.down_bias + self.up_bias))
        return folded.view_as(weight), shift if bias is None else shift + bias

    def _up_DR(self) -> Tensor:
        """Return B with the zeros between its groups."""
        dense: Tensor = torch.block_diag(*self.up)  # type: ignore[no-untyped-call]  # torch's
        return dense


@register("repadapter")
@dataclass(frozen=True)
class RepAdapter(Petl):
    """Identity at the start, mergeable."""

    mergeable: ClassVar[bool] = True
    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE

    rank: Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)] = 8  # width of the bottleneck, even
    scale: Annotated[float, Field(gt=0)] = 1.0  # s; the paper searches 0.1, 0.5, 1, 5 and 10
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of the bottleneck that a training step drops

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one bottleneck before the first linear layer of each sub-layer of every block."""
        for block in backbone.blocks:
            for name in ("attn.qkv", "mlp.fc1") if block.heads else ("mlp.fc1",):
                branch = LinearBottleneck(
                    block.width,
                    self.rank,
                    scale=self.scale,
                    dropout=self.dropout,
                    maps=block[name].channels_first,
                    generator=generator,
                )
                yield block[name], branch
