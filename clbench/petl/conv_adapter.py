"""Add a small bottleneck in parallel to a whole block.

Q. Gao et al., "A Unified Continual Learning Framework with General Parameter-Efficient Tuning" (LAE), ICCV
2023, arXiv 2303.10070, for ConvNets: ``out = block(x) + s (W2 gelu(W1 x + b1) + b2)``, with 1 x 1
convolutions on maps and linear layers on tokens.

Parameters a block of width D: (2 r + 1) D + r + 1; 63,450 for ConvNeXt-B with the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

from clbench.backbones.sites import BlockSites, Site
from clbench.petl import register
from clbench.petl.parts.bottleneck import ParallelBottlenecks


@register("conv-adapter")
@dataclass(frozen=True)
class ConvAdapter(ParallelBottlenecks):
    """LAE's adapter for ConvNets: identity at the start, not mergeable."""

    def bridged(self, block: BlockSites) -> Site:
        """Return the whole block, which must keep the shape of its input."""
        return block.whole
