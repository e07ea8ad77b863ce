"""Hold what ``houlsby`` and ``pfeiffer`` share: a bottleneck after a sub-layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import BlockSites, Branch, Site
from clbench.petl import VTAB_RECIPE, Petl
from clbench.petl.parts.bottleneck import down_and_up


@dataclass(frozen=True)
class OutputAdapters(Petl, ABC):
    """Adapters in every block, without the choice of sub-layers."""

    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE

    rank: Annotated[int, Field(ge=1)] = 8  # width of the bottleneck

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one bottleneck after each adapted sub-layer of every block."""
        for block in backbone.blocks:
            for site in self.adapted(block):
                yield site, OutputAdapter(site, self.rank, generator)

    @abstractmethod
    def adapted(self, block: BlockSites) -> Sequence[Site]:
        """Return the sub-layers of a block that get an adapter."""


class OutputAdapter(Branch):
    """``z + Up(gelu(Down(z)))`` of what the sub-layer gives; the identity at the start because Up is zero."""

    def __init__(self, site: Site, rank: int, generator: torch.Generator) -> None:
        """Draw Down (rank, width) from ``generator``."""
        super().__init__()
        self.down, self.up = down_and_up(site, rank, generator)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the bottleneck's view of the output itself."""
        bottleneck: Tensor = self.up(F.gelu(self.down(output)))
        return output + bottleneck
