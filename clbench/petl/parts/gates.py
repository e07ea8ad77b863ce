"""Hold the gates of ``vl-pet``: learnt factors for a sub-layer's output, one an element to one an image.

Z.-Y. Hu et al., "VL-PET", ICCV 2023, arXiv 2308.09804. Every gate is a function of the residual stream X and
of the sub-layer's output H, with tokens in one or two dimensions between batch and channels.

Shape letters: B batch, D channels; "..." are the dimensions of the tokens.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from clbench.petl.parts.initialise import kaiming_uniform


class Start:
    """How new layers begin: the last of each path at zero, or as the paper's code for BART has them."""

    def __init__(self, generator: torch.Generator, *, official: bool) -> None:
        """Draw from ``generator``; ``official``: all weights and vectors from N(0, 0.02^2), biases zero."""
        self.generator = generator
        self.official = official

    @torch.no_grad()
    def first(self, inputs: int, outputs: int) -> nn.Linear:
        """Return a layer that another one follows; unless official it begins as torch has it."""
        layer = self.last(inputs, outputs)
        if not self.official:
            bound = 1 / math.sqrt(inputs)
            kaiming_uniform(layer.weight, self.generator)
            layer.bias.uniform_(-bound, bound, generator=self.generator)
        return layer

    def last(self, inputs: int, outputs: int) -> nn.Linear:
        """Return a layer that no other follows."""
        layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]  # torch's
        self._fill(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def vector(self, width: int) -> nn.Parameter:
        """Return one number a channel."""
        vector = nn.Parameter(torch.empty(width))
        self._fill(vector)
        return vector

    @torch.no_grad()
    def _fill(self, weight: Tensor) -> None:
        if self.official:
            weight.normal_(0, 0.02, generator=self.generator)
        else:
            weight.zero_()


class Gate(nn.Module, ABC):
    """The factors G of a sub-layer's output (B, ..., D)."""

    at_zero: float = 0.5  # what G is while the last layer is zero

    @abstractmethod
    def forward(self, stream: Tensor, output: Tensor) -> Tensor:
        """Return G, of any shape that broadcasts, from X and H (B, ..., D)."""


class ElementGate(Gate):
    """``sigmoid(W_up gelu(W_down X + b_down) + b_up)``: one factor an element (B, ..., D)."""

    def __init__(self, width: int, rank: int, start: Start) -> None:
        """Make a bottleneck of ``rank`` channels."""
        super().__init__()
        self.down, self.up = start.first(width, rank), start.last(rank, width)

    def forward(self, stream: Tensor, output: Tensor) -> Tensor:
        """Return a factor for every element."""
        return torch.sigmoid(self.up(F.gelu(self.down(stream), approximate="tanh")))


class TokenGate(Gate):
    """``sigmoid(w (X + H) + b)``: one factor a token (B, ..., 1)."""

    def __init__(self, width: int, start: Start) -> None:
        """Make w and b."""
        super().__init__()
        self.linear = start.last(width, 1)

    def forward(self, stream: Tensor, output: Tensor) -> Tensor:
        """Return a factor for every token."""
        return torch.sigmoid(self.linear(stream + output))


class ChannelGate(Gate):
    """``1 + z``: one factor a channel (D); the paper's figure has ``1 + sigmoid(z)``."""

    def __init__(self, width: int, start: Start, *, as_drawn: bool) -> None:
        """Make z; ``as_drawn``: follow the figure."""
        super().__init__()
        self.offset = start.vector(width)
        self.as_drawn = as_drawn
        self.at_zero = 1.5 if as_drawn else 1.0

    def forward(self, stream: Tensor, output: Tensor) -> Tensor:
        """Return a factor for every channel."""
        return 1 + (torch.sigmoid(self.offset) if self.as_drawn else self.offset)


class ImageGate(Gate):
    """The mean over an image's tokens of ``sigmoid(w [X ; H] + b)``: one factor an image (B, ..., 1)."""

    def __init__(self, width: int, start: Start) -> None:
        """Make w and b."""
        super().__init__()
        self.linear = start.last(2 * width, 1)

    def forward(self, stream: Tensor, output: Tensor) -> Tensor:
        """Return a factor for every image."""
        factors = torch.sigmoid(self.linear(torch.cat((stream, output), dim=-1)))
        return factors.mean(dim=tuple(range(1, factors.ndim - 1)), keepdim=True)
