"""Add a small bottleneck in parallel to the attention of a block.

Q. Gao et al., "A Unified Continual Learning Framework with General Parameter-Efficient Tuning" (LAE), ICCV
2023, arXiv 2303.10070, section 3: ``out = MHA(h) + s (W2 gelu(W1 h + b1) + b2)`` with h = norm1(x), inside
the residual branch. A block without attention, as of a ConvNet, has it beside the whole block, where it is
the same as ``conv-adapter``.

Parameters a block of width D: (2 r + 1) D + r + 1; 42,270 for ViT-B/16 with the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

from clbench.backbones.sites import BlockSites, Site
from clbench.petl import register
from clbench.petl.parts.bottleneck import ParallelBottlenecks


@register("adapter")
@dataclass(frozen=True)
class Adapter(ParallelBottlenecks):
    """LAE's adapter: identity at the start, not mergeable."""

    def bridged(self, block: BlockSites) -> Site:
        """Return the attention, or the whole block where it has none."""
        return block["attn"] if block.has("attn") else block.whole
