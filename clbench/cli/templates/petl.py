"""Add a small correction to the output of every block's MLP: a bottleneck beside it.

Say here whose module it is (authors, venue, arXiv) and, under "Differs from the paper:", what is another.
This one is a parallel adapter, J. He et al., "Towards a Unified View of Parameter-Efficient Transfer
Learning", ICLR 2022, arXiv 2110.04366, without its scale.
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
from clbench.petl import Petl, register


class Bottleneck(Branch):
    """``output + relu(input down) up``; the identity at the start, because ``up`` is zero."""

    def __init__(self, width: int, rank: int, generator: torch.Generator) -> None:
        """Draw from the generator that is given, never from torch's own."""
        super().__init__()
        # What is to be trained is an nn.Parameter of the branch, or in an nn.ParameterList: not in a list.
        self.down = nn.Parameter(torch.randn(width, rank, generator=generator) / width**0.5)
        self.up = nn.Parameter(torch.zeros(rank, width))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the site's new output, from what went into the layer and what came out of it."""
        return output + F.relu(inputs @ self.down) @ self.up


@register("example")
@dataclass(frozen=True)
class Example(Petl):
    """One bottleneck a block; ``2 D rank`` parameters each."""

    identity_at_start: ClassVar[bool] = True  # attached, it changes nothing before it is trained
    mergeable: ClassVar[bool] = False  # the relu cannot be folded into the layer's weight
    recipe: ClassVar[dict[str, Any]] = {}  # how its paper trains it: options of a strategy, by their names

    # Every field is an option: --set petl.rank=16.
    rank: Annotated[int, Field(ge=1)] = 8  # values between the two matrices

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Yield each branch with the site where it attaches: see clbench show vit-micro for the names."""
        for block in backbone.blocks:
            yield block["mlp"], Bottleneck(block["mlp"].width, self.rank, generator)
