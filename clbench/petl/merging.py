"""Fold branches into the weights of the backbone's layers, and take them out again, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from clbench.backbones.sites import HALF, Branch, Site, Switch, in_single_precision
from clbench.quant.low_bit_layers import LowBitLayer

WITH_WEIGHTS = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d)  # the layers that can be merged into
Weights = tuple[Tensor, Tensor | None]  # a layer's weight and bias


class Merged:
    """Layers that hold merged branches, with the weights that they had before."""

    def __init__(
        self, pairs: Sequence[tuple[Site, Branch]], switch: Switch, *, is_below: bool = False
    ) -> None:
        """Merge all branches, or none: TypeError says why one cannot be. ``switch`` is their own.

        ``is_below``: they belong below whatever else is at these sites, as the weights themselves do.
        """
        sites: dict[int, Site] = {}
        merged: dict[int, Weights] = {}
        with in_single_precision([branch for _, branch in pairs]), torch.no_grad():
            for site, branch in pairs:
                layer = mergeable_layer(site, branch, None if is_below else switch)
                sites[id(layer)] = site
                weight, bias = merged.get(id(layer)) or _weights_of(layer)
                merged[id(layer)] = branch.merged(_single(weight), None if bias is None else _single(bias))
        self._before = [(site, *_weights_of(_layer(site))) for site in sites.values()]
        for site, before, _ in self._before:
            weight, bias = merged[id(site.layer)]
            after = _frozen(weight.to(before.dtype)), None if bias is None else _frozen(bias.to(before.dtype))
            _put(_layer(site), *after)
            site.merges.append(self)

    def undo(self) -> None:
        """Put the earlier weights back; TypeError if another module was merged since.

        They come back in the type and on the device that the merged ones have now.
        """
        if any(site.merges[-1] is not self for site, _, _ in self._before):
            raise TypeError("another module was merged after this one: unmerge that first")
        for site, weight, bias in self._before:
            layer = _layer(site)
            like = cast("Tensor", layer.weight)
            conform(weight, like)
            if bias is not None:
                conform(bias, like)
            _put(layer, weight, bias)
            site.merges.pop()


def mergeable_layer(site: Site, branch: Branch, switch: Switch | None) -> nn.Module:
    """Return the layer at a site; TypeError where nothing can be merged into it now.

    ``switch``: of what is to be merged, where nothing else may be on at the site.
    """
    if switch and any(other.on and other is not switch for other, _ in site.attached):
        raise TypeError(f"at {site.name} there is another module, too; switch it off or merge it first")
    if isinstance(site.layer, LowBitLayer):
        raise TypeError(f"{site.name} holds its weight in few bits: merge before it is quantised")
    if not isinstance(site.layer, WITH_WEIGHTS):
        raise TypeError(
            f"{type(branch).__name__} cannot be merged: {site.name} is not one layer with a weight;"
            f" {branch.unmergeable}"
        )
    return site.layer


def conform(tensor: Tensor, like: Tensor) -> None:
    """Give a tensor, which stays the object that it is, the type and the device of another."""
    if (tensor.dtype, tensor.device) != (like.dtype, like.device):
        tensor.data = tensor.data.to(like.device, like.dtype)


def _layer(site: Site) -> nn.Module:
    return cast("nn.Module", site.layer)


def _weights_of(layer: nn.Module) -> Weights:
    return cast("Tensor", layer.weight), cast("Tensor | None", layer.bias)


def _single(tensor: Tensor) -> Tensor:
    return tensor.detach().float() if tensor.dtype in HALF else tensor.detach()


def _frozen(tensor: Tensor) -> Tensor:
    return nn.Parameter(tensor, requires_grad=False)


def _put(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    layer.register_parameter("weight", cast("nn.Parameter", weight))
    layer.register_parameter("bias", cast("nn.Parameter | None", bias))
