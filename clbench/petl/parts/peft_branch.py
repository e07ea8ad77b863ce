"""Make a branch of a layer that Hugging Face peft made, so that it works at a site of the backbone.

A layer of peft holds the layer that it adapts and asks it for outputs. Here a ``StandIn`` takes the place of
that layer: it reads the backbone's weight where it is now, and gives back the output that is known already.
So the frozen layer is computed once, other modules at the same site are felt, and a copy of the branch refers
to the backbone instead of copying it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.sites import HALF, Branch, Site


@dataclass(frozen=True)
class Place:
    """A linear layer of the backbone, or some of its rows, which are outputs."""

    site: Site
    rows: slice
    name: str  # what the option ``sites`` calls it

    @property
    def layer(self) -> nn.Linear:
        """The backbone's layer."""
        return cast("nn.Linear", self.site.layer)

    @property
    def weight(self) -> Tensor:
        """The weight as it is now, in float32."""
        return _single(self.layer.weight[self.rows])

    @property
    def bias(self) -> Tensor | None:
        """The bias as it is now, in float32."""
        bias = cast("Tensor | None", self.layer.bias)
        return None if bias is None else _single(bias[self.rows])

    def copied(self) -> nn.Linear:
        """Return the layer as one of its own, in main memory, for peft to change as it likes."""
        weight = self.weight.detach().float()  # some of peft's decompositions take nothing wider
        return frozen_linear(weight if weight.is_meta else weight.cpu(), self.bias)

    def __deepcopy__(self, memo: dict[int, Any]) -> Place:
        """Return the place in the copy of the backbone, if that is what is copied; else the place itself."""
        return Place(memo.get(id(self.site), self.site), self.rows, self.name)


class StandIn(nn.Module):
    """What peft's layer takes for the layer that it adapts."""

    def __init__(self, place: Place) -> None:
        """Stand in for the layer at ``place``."""
        super().__init__()
        self.place = place
        self.known: tuple[Tensor, Tensor] | None = None  # inputs, and the output that belongs to them

    @property
    def weight(self) -> Tensor:
        """The weight as it is now."""
        return self.place.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias as it is now."""
        return self.place.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the known output, or what it becomes for other inputs: the layer is affine."""
        known, output = cast("tuple[Tensor, Tensor]", self.known)
        return output if inputs is known else output + F.linear(inputs - known, self.weight)

    def __deepcopy__(self, memo: dict[int, Any]) -> StandIn:
        """Return another one, for the layer of the same backbone or of its copy."""
        return StandIn(copy.deepcopy(self.place, memo))


class PeftBranch(Branch):
    """One layer that peft made, without the layer that it adapts."""

    def __init__(
        self,
        layer: nn.Module,
        place: Place,
        shared: tuple[nn.Module, ...],
        in_place: bool,
        recomputes: bool,
    ) -> None:
        """Take peft's layer over; ``shared`` are parts of it that other branches use too.

        ``in_place`` and ``recomputes`` are those of ``PeftMethod``.
        """
        super().__init__()
        adapt(layer, StandIn(place))
        self.layer = layer
        self.place = place
        self.shared = shared
        self.in_place = in_place
        self.recomputes = recomputes

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the output with what peft changes of it, in the rows that are adapted."""
        rows = self.place.rows
        part = output[..., rows]
        changed = self._changed(_sequences(inputs), _sequences(part)).view_as(part)
        if part.shape == output.shape:
            return changed
        return torch.cat((output[..., : rows.start], changed, output[..., rows.stop :]), dim=-1)

    def _changed(self, inputs: Tensor, output: Tensor) -> Tensor:
        stand_in = cast("StandIn", self.layer.base_layer)
        known = output.clone() if self.in_place else output
        if self.recomputes:
            known = F.linear(inputs, stand_in.weight, stand_in.bias)
        stand_in.known = (inputs, known)
        changed: Tensor = self.layer(inputs)
        stand_in.known = None
        return output + (changed - known) if self.recomputes else changed

    @torch.no_grad()
    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what peft's own merge makes of the weight and the bias."""
        rows = self.place.rows
        biases = weight.new_zeros(len(weight)) if bias is None else bias
        linear = frozen_linear(weight[rows], biases[rows])
        layer = copy.deepcopy(self.layer)  # merging leaves marks on it
        adapt(layer, linear)
        cast("Any", layer).merge()
        weight = torch.cat((weight[: rows.start], linear.weight, weight[rows.stop :]))
        biases = torch.cat((biases[: rows.start], linear.bias, biases[rows.stop :]))
        return weight, None if bias is None and not biases.any() else biases


def adapt(layer: nn.Module, base_layer: nn.Module) -> None:
    """Let peft's layer adapt another layer, which is no part of it."""
    layer._modules.pop("base_layer", None)
    vars(layer)["base_layer"] = base_layer


@torch.no_grad()
def frozen_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a frozen linear layer with copies of a weight and a bias."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.to(weight.device, copy=True), requires_grad=False)
    return linear


def _sequences(tokens: Tensor) -> Tensor:
    """Return tokens (B, ..., D) as (B, N, D), which is what peft's layers expect."""
    return tokens.flatten(1, -2) if tokens.ndim > 3 else tokens


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALF else tensor
