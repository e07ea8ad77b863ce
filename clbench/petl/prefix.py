"""Put learned keys and values in front of a block's own, compensated so that they learn fast enough.

X. Li and P. Liang, "Prefix-Tuning", ACL 2021, arXiv 2101.00190, with the adaptation speed calibration of LAE
(Q. Gao et al., ICCV 2023, arXiv 2303.10070): of the attention probabilities A, the part on the prefix is
divided by its own sum lam, the rest is left alone. In closed form, with s_k, s_v learnable scales that start
at 1,

    out = (1 - lam) softmax(q K^T / sqrt(d)) V + softmax(q (s_k P_k)^T / sqrt(d)) (s_v P_v).

``compensated=false`` is plain prefix tuning, softmax(q [P_k; K]^T / sqrt(d)) [P_v; V], in all blocks and
without scales; it leaves the attention fused.

Not the identity at the start. Parameters a block of width D: 2 L D + 2; 76,810 for ViT-B/16 with the
defaults; plain 2 L D, 184,320.

Shape letters: B batch, H heads, N tokens, E width of a head, L length of the prefix.
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
from clbench.petl.parts.initialise import first_blocks


class Prefix(Branch):
    """Scaled learned rows in front of the keys, or of the values (B, H, N, E) -> (B, H, L + N, E)."""

    def __init__(self, length: int, width: int, generator: torch.Generator, *, scaled: bool = True) -> None:
        """Draw the rows from U(0, 0.01); ``scaled`` gives them a learnable scale."""
        super().__init__()
        self.rows = nn.Parameter(torch.empty(length, width).uniform_(0, 0.01, generator=generator))
        self.scale = nn.Parameter(torch.ones(())) if scaled else 1.0

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Split the rows among the heads and prepend them."""
        batch, heads, _, _ = output.shape
        rows = (self.scale * self.rows).view(len(self.rows), heads, -1).transpose(0, 1)
        return torch.cat((rows.to(output.dtype).expand(batch, -1, -1, -1), output), dim=2)


class Compensation(Branch):
    """Divide the first L columns of the probabilities (B, H, N, L + N) by their sum."""

    def __init__(self, length: int) -> None:
        """Compensate a prefix of this length."""
        super().__init__()
        self.length = length

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return probabilities whose rows sum to 2 - lam."""
        prefix, tokens = output[..., : self.length], output[..., self.length :]
        lam = prefix.sum(-1, keepdim=True).clamp_min(1e-12)
        return torch.cat((prefix / lam, tokens), dim=-1)


@register("prefix")
@dataclass(frozen=True)
class PrefixTuning(Petl):
    """LAE's prefix, or the plain one: not the identity at the start, not mergeable."""

    identity_at_start: ClassVar[bool] = False

    length: Annotated[int, Field(ge=1)] = 10  # prefix rows, L
    num_blocks: Annotated[int, Field(ge=0)] = 0  # the first blocks to adapt; 0: 5/12 of them, plain: all
    compensated: bool = True  # LAE's calibration and scales; false: plain prefix tuning

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put a prefix before the keys and values of each of the first blocks, and compensate it."""
        default = 0 if self.compensated else len(backbone.blocks)
        for block in first_blocks(backbone, self.num_blocks or default):
            for site in (block["attn.keys"], block["attn.values"]):
                yield site, Prefix(self.length, site.width, generator, scaled=self.compensated)
            if self.compensated:
                yield block["attn.probs"], Compensation(self.length)
