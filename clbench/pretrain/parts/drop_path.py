"""Leave sub-layers out at random while a network learns: stochastic depth, at the sites of a backbone.

G. Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, arXiv 1603.09382, for each image of a batch
by itself; the share grows evenly with the depth, over the blocks that the network has.
"""

from __future__ import annotations

from timm.layers import DropPath, drop_path
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import BlockSites, Branch, Switch
from clbench.errors import UserError

RESIDUALS = ("attn.residual", "mlp.residual")


class Dropped(Branch):
    """Leaves a sub-layer out for some images."""

    def __init__(self, rate: float) -> None:
        """Take the share of images."""
        super().__init__()
        self.rate = rate

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the output (B, N, D) with zeros for some images, and the others larger in proportion."""
        dropped: Tensor = drop_path(output, self.rate, training=True)
        return dropped


def drop_rates(depth: int, highest: float) -> list[float]:
    """Return the share that each of so many blocks leaves out: 0 of the first, ``highest`` of the last."""
    return [highest * place / max(1, depth - 1) for place in range(depth)]


def attach_drop_path(backbone: Backbone, highest: float, switch: Switch) -> None:
    """Let sub-layers be left out while the switch is on, or where a block has its own way, while it trains.

    UserError in one line for blocks that have no sub-layers to leave out.
    """
    for block, rate in zip(backbone.blocks, drop_rates(len(backbone.blocks), highest), strict=True):
        if all(block.has(name) for name in RESIDUALS):
            for name in RESIDUALS:
                block[name].attached.append((switch, Dropped(rate)))
        else:
            _leave_to_timm(block, rate)


def _leave_to_timm(block: BlockSites, rate: float) -> None:
    """Give a residual block of a ConvNet timm's own layer, which is active while the block trains."""
    layer = block[""].layer
    if layer is None or not hasattr(layer, "drop_path"):
        raise UserError(
            f"block[{block.index}] of this backbone has no sub-layers that could be left out; drop paths of"
            " none: --set pretrain.drop_path=0"
        )
    layer.drop_path = DropPath(rate)
