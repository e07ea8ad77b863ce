"""Fold branches into the weights of the backbone's layers, and take them out again, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from clbench.backbones.sites import Branch, Site, Switch

WITH_WEIGHTS = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d)  # the layers that can be merged into
Weights = tuple[Tensor, Tensor | None]  # a layer's weight and bias


class Merged:
    """Layers that hold merged branches, with the weights that they had before."""

    def __init__(self, pairs: Sequence[tuple[Site, Branch]], switch: Switch) -> None:
        """Merge all branches, or none: TypeError says why one cannot be. ``switch`` is their own."""
        layers: dict[int, nn.Module] = {}
        merged: dict[int, Weights] = {}
        for site, branch in pairs:
            layer = mergeable_layer(site, branch, switch)
            layers[id(layer)] = layer
            weight, bias = merged.get(id(layer)) or _weights_of(layer)
            with torch.no_grad():
                merged[id(layer)] = branch.merged(_single(weight), None if bias is None else _single(bias))
        self._before = [(layer, *_weights_of(layer)) for layer in layers.values()]
        for layer, dtype in [(layer, weight.dtype) for layer, weight, _ in self._before]:
            weight, bias = merged[id(layer)]
            _put(layer, _frozen(weight.to(dtype)), None if bias is None else _frozen(bias.to(dtype)))
        self._after = [_weights_of(layer)[0] for layer in layers.values()]

    def undo(self) -> None:
        """Put the earlier weights back; TypeError if another module was merged since."""
        for (layer, _, _), weight in zip(self._before, self._after, strict=True):
            if layer.weight is not weight:
                raise TypeError("another module was merged after this one: unmerge that first")
        for layer, weight, bias in self._before:
            _put(layer, weight, bias)


def mergeable_layer(site: Site, branch: Branch, switch: Switch) -> nn.Module:
    """Return the layer at a site; TypeError where nothing can be merged into it now."""
    if any(other.on and other is not switch for other, _ in site.attached):
        raise TypeError(f"at {site.name} there is another module, too; switch it off or merge it first")
    if not isinstance(site.layer, WITH_WEIGHTS):
        raise TypeError(
            f"{type(branch).__name__} cannot be merged: {site.name} is not one layer with a weight;"
            f" {branch.unmergeable}"
        )
    return site.layer


def _weights_of(layer: nn.Module) -> Weights:
    return cast("Tensor", layer.weight), cast("Tensor | None", layer.bias)


def _single(tensor: Tensor) -> Tensor:
    return tensor.detach().float()


def _frozen(tensor: Tensor) -> Tensor:
    return nn.Parameter(tensor, requires_grad=False)


def _put(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    layer.register_parameter("weight", cast("nn.Parameter", weight))
    layer.register_parameter("bias", cast("nn.Parameter | None", bias))
