"""Adapt what every sub-layer adds to the residual stream, and weigh it by a learnt gate of a chosen grain.

Z.-Y. Hu, Y. Li, M. R. Lyu, L. Wang, "VL-PET: Vision-and-Language Parameter-Efficient Tuning via Granularity
Control", ICCV 2023, arXiv 2308.09804, the encoder's module. With X the residual stream, un-normalised, and H
what attention or MLP add to it,

    dH = Up(gelu(concat_h Down_h(H))),    H' = s (H + dH) * G,    X + H'

where the gate G has one factor an element (``large``), a token (``middle-x``), a channel (``middle-y``) or an
image (``small``); see ``gates.py``. The norms of the backbone are trained as well.

Where the paper's figure and its code differ, this is the code unless ``paper_gate`` is set: the figure lets
the gates of tokens and images see H instead of H + dH, and puts a sigmoid around the gate of a channel.

Differs from the paper: it is for language models; a ViT is our choice. The start is the identity (Up = 0, the
last layer of G = 0, s = 1 / G), which neither published start is: ``init="official"`` is that of BART, whose
gates halve H at first, and ``scale=0.3`` alone that of T5. LayerScale, where a backbone has it, is part of H,
and no dropout follows. The heads of Down share one Up, and so compute what a single head would.

Parameters a block of width D, twice 2 r D + r + D and the gate: 2 r_g D + r_g + D (large), D + 1, D, 2 D + 1;
7,119,360, 3,578,136, 3,578,112 and 3,596,568 for ViT-B/16 with the defaults, and 38,400 of the norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import Petl, register
from clbench.petl.parts.divisors import check_divides
from clbench.petl.parts.gates import ChannelGate, ElementGate, Gate, ImageGate, Start, TokenGate
from clbench.petl.parts.norms import norm_parameters


class GatedAdapter(Branch):
    """``s (H + Up(gelu(concat_h Down_h(H)))) * G`` in place of a sub-layer's output H."""

    def __init__(
        self, downs: Sequence[nn.Linear], up: nn.Linear, gate: Gate, *, scale: float, gate_sees_plain: bool
    ) -> None:
        """Take the layers and s; ``gate_sees_plain``: the gate gets H without the adapter's addition."""
        super().__init__()
        self.downs, self.up, self.gate = nn.ModuleList(downs), up, gate
        self.scale = scale
        self.gate_sees_plain = gate_sees_plain

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Adapt and gate H = ``output``; X = ``inputs``."""
        hidden = torch.cat([down(output) for down in self.downs], dim=-1)
        adapted = output + self.up(F.gelu(hidden, approximate="tanh"))
        gate = self.gate(inputs, output if self.gate_sees_plain else adapted)
        gated: Tensor = adapted * (self.scale * gate)
        return gated


@register("vl-pet")
@dataclass(frozen=True)
class VLPET(Petl):
    """Identity at the start unless ``init`` or ``scale`` say otherwise; not mergeable."""

    recipe: ClassVar[dict[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-3}  # of BART-base

    variant: Literal["large", "middle-x", "middle-y", "small"] = "large"  # a factor each element, token, ...
    rank: Annotated[int, Field(ge=1)] = 96  # width of the adapter's bottleneck, r
    heads: Annotated[int, Field(ge=1)] = 4  # parts that Down is made of
    gate_rank: Annotated[int, Field(ge=1)] = 96  # width of the bottleneck in the gate of variant large, r_g
    scale: Annotated[float, Field(ge=0)] = 0.0  # s; 0: what init asks for, 1 if official
    init: Literal["identity", "official"] = "identity"  # official: N(0, 0.02^2), as for BART
    paper_gate: bool = False  # the gates of the paper's figure instead of its code's
    train_layer_norms: bool = True  # train every norm of the backbone too, as the paper does

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one adapter with its gate after each attention and each MLP."""
        check_divides("heads", self.heads, "petl.rank", self.rank)
        start = Start(generator, official=self.init == "official")
        for block in backbone.blocks:
            for site in (block["attn.residual"], block["mlp.residual"]):
                yield site, self._adapter(site.width, start)

    def tuned(self, backbone: Backbone) -> Sequence[str]:
        """Return the norms' parameters, unless they are to stay frozen."""
        return norm_parameters(backbone) if self.train_layer_norms else ()

    def _adapter(self, width: int, start: Start) -> GatedAdapter:
        downs = [start.first(width, self.rank // self.heads) for _ in range(self.heads)]
        up, gate = start.last(self.rank, width), GATES[self.variant](self, width, start)
        scale = self.scale or (1.0 if start.official else 1 / gate.at_zero)
        return GatedAdapter(downs, up, gate, scale=scale, gate_sees_plain=self.paper_gate)


GATES: dict[str, Callable[[VLPET, int, Start], Gate]] = {
    "large": lambda recipe, width, start: ElementGate(width, recipe.gate_rank, start),
    "middle-x": lambda recipe, width, start: TokenGate(width, start),
    "middle-y": lambda recipe, width, start: ChannelGate(width, start, as_drawn=recipe.paper_gate),
    "small": lambda recipe, width, start: ImageGate(width, start),
}
