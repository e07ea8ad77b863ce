"""Put a bottleneck after the attention and after the MLP of every block.

N. Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv 1902.00751:
``z <- z + Up(gelu(Down(z)))`` on what each sub-layer is about to add to the residual stream.

Differs from the paper: Up starts at zero, not near it, and the layer norms stay frozen, as in the baselines
that vision papers report under this name.
Parameters of a ViT of L blocks of width D: 2 L (2 r D + r + D); 313,536 for ViT-B/16 with the defaults.

A ConvNeXt block has one sub-layer, which ends with its MLP: there it is the same as ``pfeiffer``.
"""

from __future__ import annotations

from dataclasses import dataclass

from clbench.backbones.sites import BlockSites, Site
from clbench.petl import register
from clbench.petl.parts.output_adapter import OutputAdapters


@register("houlsby")
@dataclass(frozen=True)
class Houlsby(OutputAdapters):
    """Two adapters a block: identity at the start, not mergeable."""

    def adapted(self, block: BlockSites) -> list[Site]:
        """Return each sub-layer."""
        return [block["attn"], block["mlp"]] if block.heads else [block["mlp"]]
