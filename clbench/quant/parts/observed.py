"""Look at what goes into a backbone's products when it sees calibration images, in float."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.quant.parts.places import Stage

CHUNK = 8  # images at a time, so that what is in passing takes little memory


@dataclass(frozen=True)
class Observed:
    """What a stage saw, all images behind one another."""

    inputs: dict[str, Tensor] = field(default_factory=dict)  # of each layer by its path, as it came in
    operands: dict[str, Tensor] = field(default_factory=dict)  # by OPERANDS: (B, H, N, E), probs (B, H, N, M)


@torch.no_grad()
def observed(backbone: Backbone, stage: Stage, images: Tensor) -> Observed:
    """Show a backbone the images (n, 3, S, S) and return what a stage's layers and products get."""
    inputs: dict[str, list[Tensor]] = {place.path: [] for place in stage.places}
    operands: dict[str, list[Tensor]] = {name: [] for name in stage.attention}
    handles = [
        place.layer.register_forward_pre_hook(lambda _, got, kept=inputs[place.path]: kept.append(got[0]))
        for place in stage.places
    ]
    handles += [
        site.register_forward_hook(lambda _, __, out, kept=operands[name]: kept.append(out))
        for name, site in stage.attention.items()
    ]
    try:
        with explicit_attention(stage):
            for start in range(0, len(images), CHUNK):
                backbone(images[start : start + CHUNK].to(backbone.device))
    finally:
        for handle in handles:
            handle.remove()
    return Observed(
        {path: torch.cat(kept).float() for path, kept in inputs.items()},
        {name: torch.cat(kept).float() for name, kept in operands.items()},
    )


@contextmanager
def explicit_attention(stage: Stage) -> Iterator[None]:
    """Make a stage's attention compute its probabilities, which a fused one never has."""
    sites = [stage.attention["probs"]] if stage.attention else []
    before = [site.rounding for site in sites]
    for site in sites:
        site.rounding = site.rounding or nn.Identity()
    try:
        yield
    finally:
        for site, rounding in zip(sites, before, strict=True):
            site.rounding = rounding


def rows_of(layer: nn.Linear | nn.Conv2d, inputs: Tensor) -> Tensor:
    """Return what a layer multiplies its weight by: (G, n, I), one row for each output it makes.

    G is the groups of a convolution, whose patches (padding included) are the rows; 1 otherwise.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(1, -1, layer.in_features)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise TypeError(f"a convolution with padding {layer.padding!r} ({layer.padding_mode})")
    patches = nn.functional.unfold(
        inputs, layer.kernel_size, dilation=layer.dilation, padding=layer.padding, stride=layer.stride
    )
    grouped = patches.view(len(patches), layer.groups, -1, patches.shape[2])
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def matrix_of(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """Return a layer's weight as a matrix (O, I) in float32; I is of one group."""
    return layer.weight.detach().float().flatten(1)
