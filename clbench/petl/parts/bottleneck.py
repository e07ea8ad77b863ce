"""Hold the branch of ``adapter`` and ``conv-adapter``, and the two layers every bottleneck consists of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from clbench.backbones.sites import Branch, Site
from clbench.petl.parts.initialise import kaiming_uniform


class Bottleneck(Branch):
    """``output + s (W2 gelu(W1 h + b1) + b2)``; zero at the start because W2 and b2 are."""

    def __init__(self, site: Site, rank: int, generator: torch.Generator) -> None:
        """Draw W1 (rank, width) from ``generator``."""
        super().__init__()
        self.down, self.up = down_and_up(site, rank, generator)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the bottleneck's view of the input."""
        bottleneck: Tensor = self.up(F.gelu(self.down(inputs)))
        return output + self.scale * bottleneck


def down_and_up(site: Site, rank: int, generator: torch.Generator) -> tuple[nn.Module, nn.Module]:
    """Return linear layers from the site's channels to ``rank`` and back; on maps, 1 x 1 convolutions.

    The weight of the first is drawn Kaiming-uniformly from ``generator``; everything else is zero.
    """
    down = _pointwise(site.width, rank, channels_first=site.channels_first)
    up = _pointwise(rank, site.width, channels_first=site.channels_first)
    kaiming_uniform(down.weight, generator)
    for zero in (down.bias, up.weight, up.bias):
        assert zero is not None
        nn.init.zeros_(zero)
    return down, up


def _pointwise(inputs: int, outputs: int, *, channels_first: bool) -> nn.Linear | nn.Conv2d:
    """Return a linear layer over the channels, uninitialised: no number is drawn from global generators."""
    kind, options = (nn.Conv2d, {"kernel_size": 1}) if channels_first else (nn.Linear, {})
    layer: nn.Linear | nn.Conv2d = skip_init(kind, inputs, outputs, **options)  # type: ignore[no-untyped-call]  # torch's
    return layer
