"""Hold the branch of ``houlsby`` and ``pfeiffer``: a bottleneck after a sub-layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.backbones.sites import Branch, Site
from clbench.petl.parts.bottleneck import down_and_up


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
