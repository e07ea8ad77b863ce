"""Put weights that learn in the place of those of whole blocks: of all their linear layers.

In a Vision Transformer that is all that a block can do: its norms and LayerScale are affine, and stand right
before or behind a linear layer. Unlike tensors in the backbone's own places (``clbench.petl.in_place``) these
are there beside a backbone of few bits, and several sets of them take turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import Petl
from clbench.petl.attached import Attached

SPREAD = 0.02  # standard deviation of weights that are drawn


class OwnWeight(Branch):
    """A weight (O, I) and a bias (O,) in the place of a layer's own."""

    reweights: ClassVar[bool] = True

    def __init__(self, layer: nn.Linear) -> None:
        """Copy the layer's."""
        super().__init__()
        self.weight = _copy(layer.weight)
        self.bias = None if layer.bias is None else _copy(layer.bias)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return its own, whatever the layer's are."""
        return self.weight, self.bias


@dataclass(frozen=True)
class BlockWeights(Petl):
    """The weights of neighbouring blocks, copies at first."""

    mergeable: ClassVar[bool] = True

    blocks: range
    slowness: float = 1.0  # the learning rate as a share of others'

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Attach to every linear layer of the blocks."""
        for index in self.blocks:
            for site in backbone.blocks[index].sites.values():
                if isinstance(site.layer, nn.Linear):
                    yield site, OwnWeight(site.layer)

    def rate_ratio(self, tensor: str) -> float:
        """Return the same for all."""
        return self.slowness


@torch.no_grad()
def draw_anew(module: Attached, generator: torch.Generator) -> None:
    """Draw a module's weights from N(0, 0.02^2), and set its biases to zero."""
    for tensor in module.parameters():
        if tensor.ndim > 1:
            nn.init.trunc_normal_(tensor, std=SPREAD, generator=generator)
        else:
            tensor.zero_()


def _copy(tensor: Tensor) -> nn.Parameter:
    """Return a copy that learns, at least in single precision."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return nn.Parameter(tensor.detach().to(wide, copy=True))
