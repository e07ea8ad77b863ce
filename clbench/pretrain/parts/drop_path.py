"""Leave sub-layers out at random while a network learns: stochastic depth, at the sites of a backbone.

G. Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, arXiv 1603.09382, for each image of a batch
by itself; the share grows evenly with the depth.
"""

from __future__ import annotations

from timm.layers import drop_path
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Switch


class DropPath(Branch):
    """Leaves a sub-layer out for some images."""

    def __init__(self, rate: float) -> None:
        """Take the share of images."""
        super().__init__()
        self.rate = rate

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the output (B, N, D) with zeros for some images, and the others larger in proportion."""
        dropped: Tensor = drop_path(output, self.rate, training=True)
        return dropped


def attach_drop_path(backbone: Backbone, highest: float, switch: Switch) -> None:
    """Let sub-layers be left out while the switch is on, none of the first block, ``highest`` of the last."""
    last = max(1, len(backbone.blocks) - 1)
    for block in backbone.blocks:
        for name in ("attn.residual", "mlp.residual"):
            block[name].attached.append((switch, DropPath(highest * block.index / last)))
