"""Hang a network of its own beside the trunk: it reads what leaves each block, and nothing flows back.

What a side network reads is detached, so that the backward pass of its loss enters no block: no tensor from
inside of one is kept for it, only the block outputs, which the gradients of the layers that read them need.

``h_0`` is what enters the first block, ``h_l`` what the next one gets after block l, and ``h_L`` what leaves
the last: so branches that others put beside a block are felt in whatever order they were attached.

Shape letters: B batch, N tokens, D width of the trunk, E width of the side network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.errors import UserError


class TokensChangedError(UserError, ValueError):
    """Tokens came or went between two blocks, so that their values cannot be put together one by one."""


class Reading:
    """One pass of the trunk, as far as a side network has read it."""

    def __init__(self) -> None:
        """Start before the first block."""
        self.waiting: list[Tensor] = []  # (B, N, D) each, detached: read, but not worked through
        self.held: list[Tensor] = []  # (B, N, E) each: what the network keeps of depths worked through
        self.depth = 0  # how many those are
        self.num_tokens = 0


class Observed:
    """What whoever trains a side network sees of a pass: what stood at each depth 0..L, and the features."""

    def __init__(self) -> None:
        """Start before the pass."""
        self.trunk: list[Tensor] = []  # h_l (B, N, D), detached
        self.side: list[Tensor] = []  # what the network took along from there, (B, N, E)
        self.normed: list[Tensor] = []  # one: what the trunk's last norm gives, tokens or features

    def features(self, backbone: Backbone) -> Tensor:
        """Return the trunk's own features (B, D), with a gradient where its norms learn."""
        (normed,) = self.normed
        if normed.ndim > 2:
            normed = backbone.model.forward_head(normed, pre_logits=True)  # type: ignore[operator]  # timm's
        features: Tensor = backbone.pooled(normed)
        return features


class SideNetwork(nn.Module, ABC):
    """What all branches of a side network share: its layers, and the pass that is under way."""

    def __init__(self) -> None:
        """Start between two passes."""
        super().__init__()
        self.reading: Reading | None = None
        self.observed: Observed | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the pass out of copies and files."""
        return {**vars(self), "reading": None, "observed": None}

    @abstractmethod
    def absorb(self, held: list[Tensor], tokens: Tensor, depth: int) -> list[Tensor]:
        """Return what is held of the trunk after its tokens (B, N, D) at one depth more."""

    @abstractmethod
    def outcome(self, held: list[Tensor]) -> Tensor:
        """Return what the network makes of all that it holds."""

    @contextmanager
    def observing(self) -> Iterator[Observed]:
        """Show the pass that is computed meanwhile."""
        self.observed = Observed()
        try:
            yield self.observed
        finally:
            self.observed = None

    def begin(self) -> None:
        """Begin a pass anew, whatever became of the one before."""
        self.reading = Reading()

    def read(self, tokens: Tensor) -> None:
        """Read the tokens of the next depth.

        Where gradients are wanted autograd will keep them in any case, so they wait until all are there: then
        none of this network's tensors belongs to a block that checkpointing computes once more for the
        backward pass. Without gradients they are worked through at once, and dropped.
        """
        reading = self.reading
        if reading is None:  # a block that is computed once more
            return
        reading.waiting.append(tokens.detach())
        if not torch.is_grad_enabled():
            reading.held = self._absorbed(reading, reading.waiting)
            reading.depth += len(reading.waiting)
            reading.waiting = []

    def result(self, *last: Tensor) -> Tensor:
        """Return what the network makes of all that was read, and of what is read last."""
        reading = cast("Reading", self.reading)
        return self.outcome(self._absorbed(reading, [*reading.waiting, *(each.detach() for each in last)]))

    def end(self) -> Reading | None:
        """End the pass, and return it."""
        reading, self.reading = self.reading, None
        return reading

    def _absorbed(self, reading: Reading, waiting: Sequence[Tensor]) -> list[Tensor]:
        """Return what is held after what is waiting, too."""
        held = reading.held
        for depth, tokens in enumerate(waiting, reading.depth):
            reading.num_tokens = reading.num_tokens or tokens.shape[1]
            if tokens.shape[1] != reading.num_tokens:
                raise TokensChangedError(
                    f"a side network puts the tokens of all blocks together, but there are {tokens.shape[1]}"
                    f" after block[{depth - 1}] and were {reading.num_tokens} before; leave out what adds or"
                    " drops tokens between the blocks, or attach prompts after the side network"
                )
            held = self.absorb(held, tokens, depth)
            if self.observed:
                self.observed.trunk.append(tokens)
                self.observed.side.append(held[-1])
        return held


class Opening(Branch):
    """Begins a pass, where the images have become tokens."""

    is_pure: ClassVar[bool] = False
    unmergeable = "a side network is no part of a weight"

    def __init__(self, network: SideNetwork) -> None:
        """Tell ``network``."""
        super().__init__()
        self.shared = (network,)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Leave the tokens as they are."""
        side_network(self).begin()
        return output


class Reader(Branch):
    """Reads what a block gets, and of the last block what it gives."""

    is_pure: ClassVar[bool] = False
    needs_all_tokens: ClassVar[bool] = True
    unmergeable = Opening.unmergeable

    def __init__(self, network: SideNetwork, *, is_last: bool = False) -> None:
        """Read for ``network``."""
        super().__init__()
        self.shared = (network,)
        self.is_last = is_last

    def before(self, inputs: Tensor) -> Tensor:
        """Read the tokens, and leave them as they are."""
        side_network(self).read(inputs)
        return inputs

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Leave the tokens as they are, having read them behind the last block."""
        if self.is_last:
            side_network(self).read(output)
        return output


class Outcome(Branch):
    """Puts the network's features in the place of what the trunk's last norm gives, tokens or features.

    As tokens they are all the same, so that any pooling gives them.
    """

    is_pure: ClassVar[bool] = False
    needs_all_tokens: ClassVar[bool] = True
    unmergeable = Opening.unmergeable

    def __init__(self, network: SideNetwork, num_tokens: int) -> None:
        """Ask ``network``, and give so many tokens; 0 behind the pooling."""
        super().__init__()
        self.shared = (network,)
        self.num_tokens = num_tokens

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the features of the side network, (B, D) or (B, N, D), and end the pass."""
        network = side_network(self)
        if network.observed:
            network.observed.normed.append(output)
        features = network.result()
        network.end()
        return features[:, None].expand(-1, self.num_tokens, -1) if self.num_tokens else features


def side_network(branch: Branch) -> SideNetwork:
    """Return the network that a branch works for."""
    return cast("SideNetwork", branch.shared[0])


def beside(backbone: Backbone, network: SideNetwork) -> Iterator[tuple[Site, Branch]]:
    """Yield the branches of a network that reads all blocks and gives the features."""
    norm, last = backbone.site("norm"), backbone.blocks[-1]
    yield backbone.site("embed"), Opening(network)
    for block in backbone.blocks:
        yield block[""], Reader(network, is_last=block is last)
    is_before_pooling = backbone.model.norm is norm
    yield norm, Outcome(network, last.num_prefix + 1 if is_before_pooling else 0)
