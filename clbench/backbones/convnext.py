"""Open timm's ConvNeXt (V1 and V2): the same weights and the same arithmetic, with named sites.

Z. Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv 2201.03545. The blocks of all stages are numbered
through. The features are timm's pre-logits: global average pool, then the final norm. (LAE's published code
leaves the final norm out.)
"""

from __future__ import annotations

from timm.models.convnext import ConvNeXt
from torch import nn

from clbench.backbones.opening import Opened, opened
from clbench.backbones.sites import BlockSites, Site
from clbench.backbones.vit import open_mlp


@opened.register
def open_convnext(model: ConvNeXt) -> Opened:
    """Open every block of every stage; its MLP sees (B, rows, columns, D), or maps if convolutional."""
    stem = model.stages[0].blocks[0].conv_dw.in_channels
    embed = Site("embed", None, stem, channels_first=True)
    model.stem = nn.Sequential(model.stem, embed)
    norm = model.head.norm = Site("norm", model.head.norm, model.head_hidden_size, channels_first=True)
    blocks: list[BlockSites] = []
    for stage in model.stages:
        for place, block in enumerate(stage.blocks):
            index, maps = len(blocks), block.use_conv_mlp
            name, width = f"block[{index}]", block.conv_dw.out_channels
            keeps_shape = isinstance(block.shortcut, nn.Identity)
            inner = open_mlp(block.mlp, f"{name}.mlp", channels_first=maps)
            block.conv_dw = Site(f"{name}.conv", block.conv_dw, width, channels_first=True)
            block.norm = Site(f"{name}.norm", block.norm, width, channels_first=maps)
            block.mlp = Site(f"{name}.mlp", block.mlp, width, channels_first=maps)
            whole = stage.blocks[place] = Site(name, block, width, channels_first=True)
            sites = {"": whole, "conv": block.conv_dw, "norm": block.norm, "mlp": block.mlp, **inner}
            blocks.append(BlockSites(index, width, heads=0, sites=sites, keeps_shape=keeps_shape))
    return Opened(blocks, width=model.head_hidden_size, sites={"embed": embed, "norm": norm})
