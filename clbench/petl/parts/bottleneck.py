"""Hold what ``adapter`` and ``conv-adapter`` share, and the two layers every bottleneck consists of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import BlockSites, Branch, Site
from clbench.petl import Petl
from clbench.petl.parts.initialise import first_blocks, kaiming_uniform


@dataclass(frozen=True)
class ParallelBottlenecks(Petl, ABC):
    """LAE's adapter without the choice of what it bridges."""

    rank: Annotated[int, Field(ge=1)] = 5  # width of the bottleneck
    num_blocks: Annotated[int, Field(ge=0)] = 0  # the first blocks to adapt; 0: 5/12 of them, as in the paper

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one bottleneck beside a site of each of the first blocks."""
        for block in first_blocks(backbone, self.num_blocks):
            site = self.bridged(block)
            yield site, Bottleneck(site, self.rank, generator)

    @abstractmethod
    def bridged(self, block: BlockSites) -> Site:
        """Return the site of a block that the bottleneck is parallel to."""


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
