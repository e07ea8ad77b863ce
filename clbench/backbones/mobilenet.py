"""Open timm's MobileNets and EfficientNets: the same weights and the same arithmetic, with named sites.

M. Sandler et al., "MobileNetV2", CVPR 2018, arXiv 1801.04381; A. Howard et al., "Searching for MobileNetV3",
ICCV 2019, arXiv 1905.02244; M. Tan, Q. V. Le, "EfficientNet", ICML 2019, arXiv 1905.11946; and what else timm
builds with the same two classes. The blocks of all stages are numbered through, and so are the convolutions
of a block. Its batch norms are no sites: most of them contain the activation, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timm.layers import CondConv2d, ConvNormAct
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from clbench.backbones.opening import Opened, opened
from clbench.backbones.sites import BlockSites, Site


@opened.register(EfficientNet)
@opened.register(MobileNetV3)
def open_mobilenet(model: EfficientNet | MobileNetV3) -> Opened:
    """Open every block of every stage."""
    embed = model.bn1 = Site("embed", model.bn1, model.conv_stem.out_channels, channels_first=True)
    blocks: list[BlockSites] = []
    for stage in model.blocks:
        for place, block in enumerate(stage):
            index = len(blocks)
            *_, last = (layer for layer in block.modules() if isinstance(layer, (nn.Conv2d, CondConv2d)))
            inner = open_convolutions(block, f"block[{index}]")
            stage[place] = Site(f"block[{index}]", block, last.out_channels, channels_first=True)
            sites = {"": stage[place], **inner}
            # A block that keeps the shape without a skip, of which there are few, counts as changing it.
            blocks.append(
                BlockSites(index, last.out_channels, heads=0, sites=sites, keeps_shape=block.has_skip)
            )
    return Opened(
        blocks, width=model.head_hidden_size, sites={"embed": embed}, memory_format=torch.channels_last
    )


def open_convolutions(block: nn.Module, name: str) -> dict[str, Site]:
    """Put sites at the convolutions of a block but those of its squeeze-and-excitation, in place."""
    sites: dict[str, Site] = {}
    for owner, attribute, layer in list(_convolutions(block)):
        short = f"conv{len(sites) + 1}"
        sites[short] = Site(f"{name}.{short}", layer, layer.out_channels, channels_first=True)
        setattr(owner, attribute, sites[short])
    return sites


def _convolutions(block: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Conv2d]]:
    """Yield each convolution with the module that holds it, and under which name."""
    for attribute, layer in block.named_children():
        if isinstance(layer, nn.Conv2d):
            yield block, attribute, layer
        elif isinstance(layer, ConvNormAct):
            yield layer, "conv", layer.conv
