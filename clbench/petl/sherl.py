"""Put together what the first blocks of the trunk say into the input of its last one.

H. Diao, B. Wan, X. Jia, Y. Zhuge, Y. Zhang, H. Lu, L. Chen, "SHERL: Synthesizing High Accuracy and Efficient
Memory for Resource-Limited Transfer Learning", ECCV 2024, arXiv 2407.07523. With h_l behind block l of the
trunk, detached, for each token, i and j over 0..L-2 and a scalar q from 0,

    d_l = LN(F_l(h_l))                                  l = 0..L-1;  guide g = d_{L-1}
    red_i = sum_j relu(cos(d_i, d_j))                   how often it is said
    a_i = relu(w . (d_i * g) + b) / red_i, divided by their sum
    h = dropout(LN(U(relu(sum_i a_i d_i + g)))) + tanh(q / 0.1) h_{L-1}
    h_L = Block_L(h)

where F_l and U are linear with bias. The trunk is frozen; its last block alone, whose input is replaced, is
passed by the gradient, and the features are the trunk's own, of that block's output.

Not the identity at the start: h_{L-1} itself has no part in h at first. Parameters for ViT-B/16: 964,322.

Differs from the paper, which adapts text and image encoders and T5; for ViTs this is our choice:
- r is the largest number up to 8 that divides the width, where none is given.
- In a backbone of one block the guide is all there is.

Shape letters: B batch, N tokens, L blocks, D width of the trunk, E = D / r.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import Petl, register
from clbench.petl.parts.side_layers import drawn_linear, projection, reduction_of, require_sequence
from clbench.petl.parts.side_network import Opening, Reader, Reading, SideNetwork, side_network

TEMPERATURE = 0.1  # of the gate
EPSILON = 1e-8  # beside sums that may be 0


class Synthesis(SideNetwork):
    """F_l and its norm of each depth 0..L-1, w and b, U and its norm, and q."""

    def __init__(
        self, num_blocks: int, *, width: int, side_width: int, dropout: float, generator: torch.Generator
    ) -> None:
        """Draw all layers."""
        super().__init__()
        self.reads = nn.ModuleList(projection(width, side_width, generator) for _ in range(num_blocks))
        self.score = drawn_linear(side_width, 1, generator)  # w and b
        self.up = projection(side_width, width, generator)
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Parameter(torch.zeros(()))  # q

    def absorb(self, held: list[Tensor], tokens: Tensor, depth: int) -> list[Tensor]:
        """Return d_0 .. d_depth, (B, N, E) each."""
        return [*held, self.reads[depth](tokens)]

    def outcome(self, held: list[Tensor]) -> Tensor:
        """Return the part (B, N, D) of the last block's input that this network makes."""
        *layers, guide = held
        made: Tensor = self.dropout(self.up(torch.relu(voted(layers, guide, self.score))))
        return made

    def entering(self, tokens: Tensor) -> Tensor:
        """Return what the last block gets in the place of ``tokens`` (B, N, D)."""
        return self.result(tokens) + torch.tanh(self.gate / TEMPERATURE) * tokens.detach()


def voted(layers: list[Tensor], guide: Tensor, score: nn.Linear) -> Tensor:
    """Return sum_i a_i d_i + g, (B, N, E): depths that say the same share one vote."""
    if not layers:
        return guide
    stacked = torch.stack(layers)  # (L, B, N, E)
    unit = F.normalize(stacked, dim=-1)
    redundancy_LBN = torch.relu(torch.einsum("ibne,jbne->ijbn", unit, unit)).sum(dim=1)
    vote_LBN = torch.relu(score(stacked * guide)[..., 0]) / (redundancy_LBN + EPSILON)
    vote_LBN = vote_LBN / (vote_LBN.sum(dim=0) + EPSILON)
    return (vote_LBN[..., None] * stacked).sum(dim=0) + guide


class LastBlock(Branch):
    """Replaces the input of the trunk's last block.

    The backward pass goes through that block. Checkpointing computes it once more then, with its input: so
    from where the gradient leaves its output until it has reached its input, the pass is as it was.
    """

    is_pure: ClassVar[bool] = False
    needs_all_tokens: ClassVar[bool] = True
    unmergeable = Opening.unmergeable

    def __init__(self, network: Synthesis) -> None:
        """Ask ``network``."""
        super().__init__()
        self.shared = (network,)

    def before(self, inputs: Tensor) -> Tensor:
        """Return what the network makes of all tokens (B, N, D) so far."""
        return cast("Synthesis", side_network(self)).entering(inputs)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Leave the block's output as it is, and end the pass."""
        network = side_network(self)
        reading = network.end()
        if output.requires_grad:
            output.register_hook(partial(_set, network, reading))  # type: ignore[no-untyped-call]  # torch's
        if inputs.requires_grad:
            inputs.register_hook(partial(_set, network, None))  # type: ignore[no-untyped-call]  # torch's
        return output


def _set(network: SideNetwork, reading: Reading | None, _: Tensor) -> None:
    network.reading = reading


@register("sherl")
@dataclass(frozen=True)
class SHERL(Petl):
    """Not the identity at the start, not mergeable; for ViTs."""

    identity_at_start: ClassVar[bool] = False

    reduction: Annotated[int, Field(ge=0)] = 0  # r, divides the width; 0: the largest that does up to 8
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of what is put together

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one network between the first blocks and the last."""
        require_sequence(backbone)
        *first, last = backbone.blocks
        network = Synthesis(
            len(backbone.blocks),
            width=last.width,
            side_width=last.width // reduction_of(self.reduction, "the width of a block", last.width),
            dropout=self.dropout,
            generator=generator,
        )
        yield backbone.site("embed"), Opening(network)
        for block in first:
            yield block[""], Reader(network)
        yield last[""], LastBlock(network)
