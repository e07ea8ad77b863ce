"""Put a bottleneck after the MLP of every block.

J. Pfeiffer et al., "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", EACL 2021, arXiv
2005.00247: half of ``houlsby``, ``z <- z + Up(gelu(Down(z)))`` on the output of the MLP alone.

Differs from the paper, whose blocks are post-norm: no layer norm is moved or trained.
Parameters of a ViT of L blocks of width D: L (2 r D + r + D); 156,768 for ViT-B/16 with the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

from clbench.backbones.sites import BlockSites, Site
from clbench.petl import register
from clbench.petl.parts.output_adapter import OutputAdapters


@register("pfeiffer")
@dataclass(frozen=True)
class Pfeiffer(OutputAdapters):
    """One adapter a block: identity at the start, not mergeable."""

    def adapted(self, block: BlockSites) -> list[Site]:
        """Return the MLP."""
        return [block["mlp"]]
