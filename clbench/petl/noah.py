"""Let a search choose prompts, a LoRA rank and an adapter width for every block.

Y. Zhang, K. Zhou, Z. Liu, "Neural Prompt Search" (NOAH), 2022, arXiv 2206.04673. Three steps: train a
super-net whose modules have the largest sizes, each step with an architecture drawn at random that uses the
first p prompts, r ranks and h hidden units of a block; search the architecture that scores best under a limit
of parameters (``clbench.petl.noah_search``); train that one anew, ``architecture="p=.../r=.../h=..."``.

A block gets p prompts (inserted before it and dropped after it), W_q += B_q A_q and W_v += B_v A_v of rank r,
and ``z + W2 quickgelu(W1 z + b1) + b2`` with h hidden units on the output z of its MLP.

Differs from the published code:
- LoRA with an A of its own for q and for v, as its paper has it, instead of one A for q, k and v.
- The prompts start like VPT's. Evaluated without a search, the super-net uses its largest architecture of
  one size a module that keeps to ``max_parameters``.
- The recipe is that of a chosen architecture; a super-net has half its learning rate there, and 500 epochs.
  After few epochs a super-net may stay behind linear probing: every step trains another architecture.

Not the identity at the start: prompts, and Xavier in both layers of the adapter. Parameters of a ViT of width
D, summed over its blocks: p D + 4 r D + h (2 D + 1) + D, the last D only if h > 0; the super-net takes
654,456 for ViT-B/16.
"""

from __future__ import annotations

import math
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
from clbench.petl.parts.initialise import kaiming_uniform
from clbench.petl.parts.noah_space import SIZES, ArchitectureError, Space, Subnet
from clbench.petl.parts.prompts import TOKENS, drawn_prompts, with_prompts, without_prompts


class Choice(nn.Module):
    """The architecture that all branches compute with."""

    def __init__(self, space: Space, chosen: Subnet, *, is_fixed: bool) -> None:
        """Compute with ``chosen``, in training mode only if it is fixed."""
        super().__init__()
        self.space = space
        self.chosen = self.sampled = chosen
        self.is_fixed = is_fixed

    def draw(self) -> None:
        """Choose for one forward pass of the super-net, from torch's global generator; once, at its start."""
        if self.training and not self.is_fixed:
            self.sampled = self.space.sample()

    def at(self, index: int) -> tuple[int, ...]:
        """Return the number of prompts, the rank and the width at a block."""
        return (self.chosen if self.is_fixed or not self.training else self.sampled).at(index)


class ChosenPrompts(Branch):
    """The first p prompts, inserted before a block and dropped after it."""

    unmergeable = TOKENS

    def __init__(self, choice: Choice, index: int, prompts: Tensor, num_prefix: int) -> None:
        """Hold as many prompts as the block may get."""
        super().__init__()
        self.shared: tuple[Choice] = (choice,)
        self.index, self.num_prefix = index, num_prefix
        self.prompts = nn.Parameter(prompts)

    def before(self, inputs: Tensor) -> Tensor:
        """Insert prompts; the first block draws the architecture for all."""
        if self.index == 0:
            self.shared[0].draw()
        length = self.shared[0].at(self.index)[0]
        return with_prompts(inputs, self.prompts[:length], self.num_prefix)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Take the prompts out."""
        return without_prompts(output, self.shared[0].at(self.index)[0], self.num_prefix)


class ChosenUpdate(Branch):
    """The first r ranks of B A, added to the queries and to the values of a fused qkv layer (3 D, D)."""

    def __init__(self, choice: Choice, index: int, width: int, rank: int, generator: torch.Generator) -> None:
        """Draw A (rank, width) of both; B (width, rank) starts at zero."""
        super().__init__()
        self.shared: tuple[Choice] = (choice,)
        self.index = index
        self.query_down, self.value_down = (nn.Parameter(torch.empty(rank, width)) for _ in range(2))
        self.query_up, self.value_up = (nn.Parameter(torch.zeros(width, rank)) for _ in range(2))
        kaiming_uniform(self.query_down, generator)
        kaiming_uniform(self.value_down, generator)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the updates to the first and the last third of the output (B, N, 3 D)."""
        rank = self.shared[0].at(self.index)[1]
        query = inputs @ self.query_down[:rank].T @ self.query_up[:, :rank].T
        value = inputs @ self.value_down[:rank].T @ self.value_up[:, :rank].T
        q, k, v = output.chunk(3, dim=-1)
        return torch.cat((q + query, k, v + value), dim=-1)


class ChosenAdapter(Branch):
    """The first h hidden units of a bottleneck, after the MLP."""

    def __init__(
        self, choice: Choice, index: int, width: int, hidden: int, generator: torch.Generator
    ) -> None:
        """Draw both weights by Xavier's rule; the biases start at zero."""
        super().__init__()
        self.shared: tuple[Choice] = (choice,)
        self.index = index
        bound = math.sqrt(6 / (width + hidden))
        self.down = nn.Parameter(torch.empty(hidden, width).uniform_(-bound, bound, generator=generator))
        self.up = nn.Parameter(torch.empty(width, hidden).uniform_(-bound, bound, generator=generator))
        self.down_bias, self.up_bias = nn.Parameter(torch.zeros(hidden)), nn.Parameter(torch.zeros(width))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the bottleneck's view of the output; nothing where no unit is chosen."""
        width = self.shared[0].at(self.index)[2]
        if width == 0:
            return output
        hidden = F.linear(output, self.down[:width], self.down_bias[:width])
        return output + F.linear(quick_gelu(hidden), self.up[:, :width], self.up_bias)


def quick_gelu(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


@register("noah")
@dataclass(frozen=True)
class NOAH(Petl):
    """Not the identity at the start, not mergeable; for ViTs."""

    identity_at_start: ClassVar[bool] = False
    steps_to_reach_all: ClassVar[int] = 20  # a step trains the last block's modules one time in four
    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE

    architecture: str = (
        ""  # to train alone, such as p=10,5,1/r=5,5/h=1, from the first block on; "": the super-net
    )
    max_parameters: Annotated[int, Field(ge=0)] = 0  # of the super-net's architecture in use; 0: no limit

    def __post_init__(self) -> None:
        """Check how the architecture is written."""
        if self.architecture:
            Subnet.parse(self.architecture)

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put as much as a block may get before it, at its qkv layer and after its MLP."""
        choice = self._choice(backbone)
        for block in backbone.blocks:
            index, width = block.index, block.width
            num_prompts, rank, hidden = choice.chosen.at(index) if choice.is_fixed else [max(SIZES)] * 3
            prompts = drawn_prompts(backbone, num_prompts, generator)
            if num_prompts:
                yield block[""], ChosenPrompts(choice, index, prompts, block.num_prefix)
            if rank:
                yield block["attn.qkv"], ChosenUpdate(choice, index, width, rank, generator)
            if hidden:
                yield block["mlp"], ChosenAdapter(choice, index, width, hidden, generator)

    def _choice(self, backbone: Backbone) -> Choice:
        """Return the given architecture, or the super-net's largest one under the limit."""
        space = Space(len(backbone.blocks), backbone.blocks[0].width)
        if not self.architecture:
            return Choice(space, space.largest(self.max_parameters), is_fixed=False)
        subnet = Subnet.parse(self.architecture)
        if any(len(sizes) > space.num_blocks for sizes in subnet.lists):
            raise ArchitectureError(
                f"petl.architecture: {subnet} names more blocks than {backbone.name} has: {space.num_blocks}"
            )
        if not space.fits(subnet, self.max_parameters):
            raise ArchitectureError(
                f"petl.architecture: {subnet} has {subnet.num_parameters(space.width)} parameters, more than"
                f" petl.max_parameters allows: {self.max_parameters}"
            )
        return Choice(space, subnet, is_fixed=True)
