"""Let a search choose prompts, a LoRA rank and an adapter width for every block.

Y. Zhang, K. Zhou, Z. Liu, "Neural Prompt Search" (NOAH), 2022, arXiv 2206.04673. Three steps: train a
super-net whose modules have the largest sizes, each step with an architecture drawn at random that uses the
first p prompts, r ranks and h hidden units of a block; search the architecture that scores best under a limit
of parameters (``clbench.petl.noah_search``); train that one anew, ``architecture="p=.../r=.../h=..."``.

A block gets p prompts in the place of those of the block before it, W_q += B_q A_q and W_v += B_v A_v of
rank r, and ``z + W2 quickgelu(W1 z + b1) + b2`` with h hidden units on the output z of its MLP. The last
prompts stay to the end, and are left out of the features.

Starts as the published code does: all matrices, B too, from N(0, 0.02^2), biases at zero, prompts from
U(-b, b) with b = sqrt(6 / (D (p + 1))).

Differs from the published code:
- LoRA with an A of its own for q and for v, as its paper has it, instead of one A for q, k and v.
- The first block's prompts are drawn like the others'; there they are the sum of two tensors so drawn.
- Evaluated without a search, the super-net uses its largest architecture of one size a module that keeps to
  ``max_parameters``.
- The recipe is that of a chosen architecture; a super-net has half its learning rate there, and 500 epochs.
  After few epochs a super-net may stay behind linear probing: every step trains another architecture.

Not the identity at the start. Parameters of a ViT of width D, summed over its blocks: p D + 4 r D +
h (2 D + 1) + D, the last D only if h > 0; the super-net takes 654,456 for ViT-B/16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import VTAB_RECIPE, Petl, register
from clbench.petl.parts.noah_space import SIZES, ArchitectureError, Space, Subnet
from clbench.petl.parts.prompts import TOKENS, require_sequence, with_prompts, without_prompts

STD = 0.02  # of the values drawn for every matrix


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

    def num_prompts(self, index: int) -> int:
        """Return the number of prompts of a block; 0 for the one before the first."""
        return self.at(index)[0] if index >= 0 else 0


class ChosenPrompts(Branch):
    """The first p prompts of a block, in the place of those of the block before it."""

    needs_all_tokens: ClassVar[bool] = True
    unmergeable = TOKENS

    def __init__(
        self, choice: Choice, index: int, width: int, length: int, num_prefix: int, generator: torch.Generator
    ) -> None:
        """Draw as many prompts as the block may get, by Xavier's rule."""
        super().__init__()
        self.shared: tuple[Choice] = (choice,)
        self.index, self.num_prefix = index, num_prefix
        bound = math.sqrt(6 / (width * (length + 1)))
        self.prompts = nn.Parameter(torch.empty(length, width).uniform_(-bound, bound, generator=generator))

    def before(self, inputs: Tensor) -> Tensor:
        """Exchange the prompts; the first block draws the architecture for all."""
        choice = self.shared[0]
        if self.index == 0:
            choice.draw()
        length = choice.num_prompts(self.index)
        if length == 0:
            return inputs
        rest = without_prompts(inputs, choice.num_prompts(self.index - 1), self.num_prefix)
        return with_prompts(rest, self.prompts[:length], self.num_prefix)


class LastPromptsDropped(Branch):
    """What the last block gives, without the prompts that are still there."""

    needs_all_tokens: ClassVar[bool] = True
    unmergeable = TOKENS

    def __init__(self, choice: Choice, num_blocks: int, num_prefix: int) -> None:
        """Count what ``num_blocks`` blocks have left."""
        super().__init__()
        self.shared: tuple[Choice] = (choice,)
        self.num_blocks, self.num_prefix = num_blocks, num_prefix

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Take the prompts out."""
        lengths = [self.shared[0].num_prompts(index) for index in range(self.num_blocks)]
        exchanged = sum(before for before, after in pairwise(lengths) if after)
        return without_prompts(output, sum(lengths) - exchanged, self.num_prefix)


class ChosenUpdate(Branch):
    """The first r ranks of B A, added to the queries and to the values of a fused qkv layer (3 D, D)."""

    def __init__(self, choice: Choice, index: int, width: int, rank: int, generator: torch.Generator) -> None:
        """Draw A (rank, width) and B (width, rank) of both."""
        super().__init__()
        self.shared: tuple[Choice] = (choice,)
        self.index = index
        self.query_down, self.value_down = (drawn(rank, width, generator) for _ in range(2))
        self.query_up, self.value_up = (drawn(width, rank, generator) for _ in range(2))

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
        """Draw both weights; the biases start at zero."""
        super().__init__()
        self.shared: tuple[Choice] = (choice,)
        self.index = index
        self.down, self.up = drawn(hidden, width, generator), drawn(width, hidden, generator)
        self.down_bias, self.up_bias = nn.Parameter(torch.zeros(hidden)), nn.Parameter(torch.zeros(width))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the bottleneck's view of the output; nothing where no unit is chosen."""
        width = self.shared[0].at(self.index)[2]
        if width == 0:
            return output
        hidden = F.linear(output, self.down[:width], self.down_bias[:width])
        return output + F.linear(quick_gelu(hidden), self.up[:, :width], self.up_bias)


def drawn(outputs: int, inputs: int, generator: torch.Generator) -> nn.Parameter:
    """Return a weight as the published code draws that of every linear layer."""
    weight = torch.empty(outputs, inputs)
    return nn.Parameter(nn.init.trunc_normal_(weight, std=STD, generator=generator))


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
        require_sequence(backbone)
        choice = self._choice(backbone)
        for block in backbone.blocks:
            index, width = block.index, block.width
            num_prompts, rank, hidden = choice.chosen.at(index) if choice.is_fixed else [max(SIZES)] * 3
            if num_prompts:
                prefix = block.num_prefix
                yield block[""], ChosenPrompts(choice, index, width, num_prompts, prefix, generator)
            if rank:
                yield block["attn.qkv"], ChosenUpdate(choice, index, width, rank, generator)
            if hidden:
                yield block["mlp"], ChosenAdapter(choice, index, width, hidden, generator)
        if not choice.is_fixed or any(choice.chosen.prompts):
            num_blocks = len(backbone.blocks)
            yield backbone.blocks[-1][""], LastPromptsDropped(choice, num_blocks, block.num_prefix)

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
