"""Hold what ``convpass`` and ``convpass-attn`` share: a convolutional bottleneck beside a sub-layer.

S. Jie, Z.-H. Deng, "Convolutional Bypasses Are Better Vision Transformer Adapters" (Convpass), 2022, arXiv
2207.07039:

    out = sublayer(u) + s (W2 q(K * q(W1 u + b1)) + b2),  q(t) = t sigmoid(1.702 t)

with u the normalised tokens, h channels in the bottleneck and ``K *`` a zero-padded 3 x 3 convolution with
bias over the grid of patches. To the same convolution a class or register token is an image of one pixel:
only the central tap sees it. W2 and b2 start at zero.

Differs from the paper:
- q and the dropout before W2 are those of the published code; the figure says GELU, the text no dropout.
- No stochastic depth of its own, for a frozen backbone computes in evaluation mode here.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from clbench.backbones.sites import BlockSites, Branch, Site
from clbench.errors import UserError
from clbench.petl import VTAB_RECIPE, Petl


class TokenGridError(UserError, ValueError):
    """A sequence of tokens that is not the prefix and the patch grid of its backbone."""


@dataclass(frozen=True)
class ConvolutionalBypass(Petl, ABC):
    """Convpass without the choice of sub-layers: identity at the start, not mergeable."""

    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE

    rank: Annotated[int, Field(ge=1)] = 8  # channels of the bottleneck, h
    scale: float = 0.1  # s, not trained; the paper searches {0.01, 0.1, 1, 10, 100} for each data set
    kernel: Literal[1, 3] = 3  # rows and columns of the convolution; 1 is the paper's ablation
    conv_init: Literal["identity", "xavier"] = "identity"  # the published code has either, by data set
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of the bottleneck dropped before W2

    def beside(self, block: BlockSites, name: str, generator: torch.Generator) -> tuple[Site, Bypass]:
        """Return a sub-layer's site with a new bypass for it."""
        site = block[name]
        bypass = Bypass(
            site,
            rank=self.rank,
            kernel=self.kernel,
            scale=self.scale,
            dropout=self.dropout,
            grid=block.grid,
            num_prefix=block.num_prefix,
        )
        bypass.initialise(self.conv_init, generator)
        return site, bypass


class Bypass(Branch):
    """``output + s (W2 q(K * q(W1 u + b1)) + b2)``."""

    needs_all_tokens: ClassVar[bool] = True

    def __init__(
        self,
        site: Site,
        *,
        rank: int,
        kernel: int,
        scale: float,
        dropout: float,
        grid: tuple[int, int] | None,
        num_prefix: int,
    ) -> None:
        """Allocate the layers; without a ``grid`` the site's tokens are maps already."""
        super().__init__()
        self.down: nn.Linear = skip_init(nn.Linear, site.width, rank)  # type: ignore[no-untyped-call]  # torch's
        self.conv: nn.Conv2d = skip_init(nn.Conv2d, rank, rank, kernel, padding=kernel // 2)  # type: ignore[no-untyped-call]  # too
        self.up: nn.Linear = skip_init(nn.Linear, rank, site.width)  # type: ignore[no-untyped-call]  # too
        self.centre = kernel // 2  # row and column of the central tap
        self.scale, self.dropout = scale, dropout
        self.grid, self.num_prefix = grid, num_prefix
        self.channels_first = site.channels_first

    @torch.no_grad()
    def initialise(self, conv_init: str, generator: torch.Generator) -> None:
        """Draw W1, and K unless it is to be the identity; W2 and the biases are zero."""
        for zero in (self.down.bias, self.conv.bias, self.up.bias, self.up.weight):
            assert zero is not None
            nn.init.zeros_(zero)
        nn.init.xavier_uniform_(self.down.weight, generator=generator)
        if conv_init == "xavier":
            nn.init.xavier_uniform_(self.conv.weight, generator=generator)
        else:
            nn.init.dirac_(self.conv.weight)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the bypass's view of the input."""
        tokens = inputs.movedim(1, -1) if self.channels_first else inputs
        hidden = quick_gelu(self.down(tokens))
        hidden = self._maps(hidden) if self.grid is None else self._sequence(hidden, self.grid)
        update: Tensor = self.up(F.dropout(quick_gelu(hidden), self.dropout, self.training))
        return torch.add(output, update.movedim(-1, 1) if self.channels_first else update, alpha=self.scale)

    def _maps(self, hidden: Tensor) -> Tensor:
        """Convolve (B, rows, columns, h)."""
        convolved: Tensor = self.conv(hidden.movedim(-1, 1))
        return convolved.movedim(1, -1)

    def _sequence(self, hidden: Tensor, grid: tuple[int, int]) -> Tensor:
        """Convolve the patches among each other and each prefix token alone: (B, N, h)."""
        batch, num_tokens, rank = hidden.shape
        rows, columns = grid
        if num_tokens != self.num_prefix + rows * columns:
            raise TokenGridError(
                f"Convpass got {num_tokens} tokens, not {self.num_prefix} and {rows} x {columns} patches: it"
                " does not combine with prompts (vpt) or with token merging before it"
            )
        prefix, patches = hidden[:, : self.num_prefix], hidden[:, self.num_prefix :]
        central_tap = self.conv.weight[:, :, self.centre, self.centre]
        prefix = F.linear(prefix, central_tap, self.conv.bias)
        patches = self._maps(patches.reshape(batch, rows, columns, rank)).flatten(1, 2)
        return torch.cat((prefix, patches), dim=1)


def quick_gelu(tensor: Tensor) -> Tensor:
    """Return t sigmoid(1.702 t)."""
    return tensor * torch.sigmoid(1.702 * tensor)
