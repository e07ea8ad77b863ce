"""Define a site: a named place of a backbone where modules attach.

A site wraps a layer (or nothing, for a value such as the keys of an attention). With nothing attached it *is*
the layer. A branch may change what goes into the layer, the layer's weight, and what comes out of it, so
parallel (``output + f(input)``), sequential (``f(output)``) and reparametrising branches are one thing, and
several compose: each wraps the layer with the branches that were attached before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import UserError

HALF = (torch.bfloat16, torch.float16)


class Branch(nn.Module):
    """What attaches to a site: subclasses implement one or more of the three hooks.

    ``before`` changes the layer's input, ``merged`` together with ``reweights`` the layer's weight, and
    ``forward`` the layer's output. They compute in float32 where the backbone computes in half precision
    without autocast, and also where the parameters are held in half precision: with float32 copies of both.
    """

    reweights: ClassVar[bool] = False  # whether the layer is to compute with the weight that merged() gives
    unmergeable: ClassVar[str] = "it is not linear in the layer's input"  # why, where merged() is not given
    is_pure: ClassVar[bool] = True  # whether the output depends on nothing but the input and the parameters
    needs_all_tokens: ClassVar[bool] = (
        False  # whether it fails, or errs, where tokens were merged or dropped before it
    )
    shared: tuple[nn.Module, ...] = ()  # modules that other branches use too; saved and counted once

    def before(self, inputs: Tensor) -> Tensor:
        """Return what the layer, and every branch attached before this one, gets for input."""
        return inputs

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the site's new output; both tensors have the shapes of the site."""
        return output

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the weight and bias that make the layer do what it and this branch do together."""
        raise TypeError(f"{type(self).__name__} cannot be merged into a layer: {self.unmergeable}")


class TokenStep(nn.Module):
    """What a compressor puts at a site: a change of the tokens that come out of it, after every branch.

    It is no branch, so that it comes after those of every module, whichever was there first.
    """

    def carried(self, inputs: Tensor) -> Tensor:
        """Return what became of the layer's input inside it: a branch beside the layer sees that."""
        return inputs

    def forward(self, output: Tensor) -> Tensor:
        """Return the site's new output."""
        return output


class OtherLinear(nn.Linear, ABC):
    """A linear layer whose weight is held in another form, or that does something to its input first."""

    @abstractmethod
    def multiply(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what the layer makes of its input with a weight like its ``weight``, and a bias."""


class Switch:
    """On or off, shared by all branches that were attached together."""

    def __init__(self) -> None:
        """Start switched on."""
        self.on = True
        self.is_half = False  # whether the branches' tensors are held in half precision


class Site(nn.Module):
    """A layer, or a value when ``layer`` is None, with the branches attached to it."""

    def __init__(
        self, name: str, layer: nn.Module | None, width: int, *, channels_first: bool = False
    ) -> None:
        """Name the site; ``width`` is the number of channels of its output.

        ``channels_first`` tells maps (B, C, H, W) from tokens (..., C).
        """
        super().__init__()
        self.name = name
        self.layer = layer
        self.width = width
        self.channels_first = channels_first
        # Not submodules: a branch belongs to the module that it came with, not to the backbone.
        self.attached: list[tuple[Switch, Branch]] = []
        self.tokens: TokenStep | None = None  # what a compressor makes of the output, after every branch
        self.rounding: nn.Module | None = None  # what a quantiser makes of the output, at the very last
        self.merges: list[object] = []  # what was merged into the layer and is still in it, oldest first

    @property
    def is_active(self) -> bool:
        """Whether any branch is switched on, or the output is compressed or rounded."""
        is_changed = self.tokens is not None or self.rounding is not None
        return is_changed or any(switch.on for switch, _ in self.attached)

    def forward(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the layer inside every branch that is switched on."""
        if not self.is_active:
            return inputs if self.layer is None else self.layer(inputs, *args, **kwargs)
        branches = [branch for switch, branch in self.attached if switch.on]
        if any(switch.is_half for switch, _ in self.attached if switch.on):
            with in_single_precision(branches):
                return self._inside(branches, inputs, *args, **kwargs)
        return self._inside(branches, inputs, *args, **kwargs)

    def _inside(self, branches: list[Branch], inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the layer inside the branches."""
        seen = []  # each branch with the input that reaches it; the last one attached is the outermost
        for branch in reversed(branches):
            inputs = branch.before(_wide(inputs)).to(inputs.dtype)
            seen.append((branch, inputs))
        if any(branch.reweights for branch in branches):
            output = self._reweighted(branches, inputs)
        else:
            output = inputs if self.layer is None else self.layer(inputs, *args, **kwargs)
        for branch, inputs in reversed(seen):
            inputs = inputs if self.tokens is None else self.tokens.carried(inputs)
            output = branch(_wide(inputs), _wide(output)).to(output.dtype)
        if self.tokens is not None:
            output = self.tokens(output)
        return output if self.rounding is None else self.rounding(output)

    def _reweighted(self, branches: list[Branch], inputs: Tensor) -> Tensor:
        """Apply the Linear layer with the weight that the branches make of it, one after another."""
        layer = cast("nn.Linear", self.layer)
        weight: Tensor = _wide(layer.weight)
        bias: Tensor | None = layer.bias
        for branch in branches:
            if branch.reweights:
                weight, bias = branch.merged(weight, bias)
        weight, bias = weight.to(inputs.dtype), None if bias is None else bias.to(inputs.dtype)
        multiply = layer.multiply if isinstance(layer, OtherLinear) else F.linear
        return multiply(inputs, weight, bias)


@contextmanager
def in_single_precision(branches: Iterable[Branch]) -> Iterator[None]:
    """Let branches whose tensors are held in half precision compute with float32 copies of them.

    Gradients go through the copies to the tensors.
    """
    parts = [part for branch in branches for root in (branch, *branch.shared) for part in root.modules()]
    slots = [slots for part in parts for slots in (part._parameters, part._buffers)]
    held = [
        (place, name, tensor)
        for place in slots
        for name, tensor in place.items()
        if tensor is not None and tensor.dtype in HALF
    ]
    for place, name, tensor in held:
        cast("dict[str, Tensor]", place)[name] = tensor.float()
    try:
        yield
    finally:
        for place, name, tensor in held:
            cast("dict[str, Tensor]", place)[name] = tensor


def _wide(tensor: Tensor) -> Tensor:
    """Return a half-precision tensor in float32, except under autocast, which converts by itself."""
    if tensor.dtype in HALF and not torch.is_autocast_enabled(tensor.device.type):
        return tensor.float()
    return tensor


class NoSuchSiteError(UserError, ValueError):
    """A module asks for a site that this backbone does not have."""


@dataclass(frozen=True)
class BlockSites:
    """The sites of one block, by their short names: ``block["attn.qkv"]``; "" is the block itself."""

    index: int
    width: int  # channels of the block's output
    heads: int  # attention heads; 0 without attention
    sites: dict[str, Site] = field(repr=False)
    keeps_shape: bool = True  # whether the block's output has the shape of its input
    grid: tuple[int, int] | None = None  # rows and columns of the patches, where they are a sequence
    num_prefix: int = 0  # class and register tokens in front of the patches

    def has(self, name: str) -> bool:
        """Tell whether there is such a site."""
        return name in self.sites

    def __getitem__(self, name: str) -> Site:
        """Return a site; NoSuchSiteError names those that exist."""
        if name not in self.sites:
            have = ", ".join(repr(site) for site in self.sites)
            raise NoSuchSiteError(f"block[{self.index}] of this backbone has no site {name!r}; it has {have}")
        return self.sites[name]

    @property
    def whole(self) -> Site:
        """The block as a site, for a branch beside it; NoSuchSiteError if it changes its input's shape."""
        if not self.keeps_shape:
            raise NoSuchSiteError(
                f"block[{self.index}] changes the shape of its input, so no branch fits beside it; adapt only"
                f" the blocks before it: --set petl.num_blocks=N with N in 1..{self.index}"
            )
        return self[""]
