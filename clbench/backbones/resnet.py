"""Open timm's ResNet and its relatives (ResNeXt, SE, ...): the same arithmetic, with named sites.

K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385. The blocks of all
stages are numbered through; the first of a stage usually changes the shape of its input.
"""

from __future__ import annotations

import torch
from timm.models.resnet import ResNet
from torch import nn

from clbench.backbones.opening import Opened, opened
from clbench.backbones.sites import BlockSites, Site


@opened.register
def open_resnet(model: ResNet) -> Opened:
    """Open every block of the four stages."""
    stem, *stages = (info["num_chs"] for info in model.feature_info)
    embed = Site("embed", None, stem, channels_first=True)
    model.maxpool = nn.Sequential(model.maxpool, embed)
    blocks: list[BlockSites] = []
    # not strict: the CIFAR networks have three stages
    for layer, width in zip((model.layer1, model.layer2, model.layer3, model.layer4), stages, strict=False):
        for place, block in enumerate(layer):
            index = len(blocks)
            inner = open_layers(block, f"block[{index}]")
            layer[place] = Site(f"block[{index}]", block, width, channels_first=True)
            sites = {"": layer[place], **inner}
            keeps_shape = block.downsample is None
            blocks.append(BlockSites(index, width, heads=0, sites=sites, keeps_shape=keeps_shape))
    return Opened(
        blocks, width=model.head_hidden_size, sites={"embed": embed}, memory_format=torch.channels_last
    )


def open_layers(block: nn.Module, name: str) -> dict[str, Site]:
    """Put sites at the convolutions (conv1, ...) and batch norms (norm1, ...) of a block, in place."""
    sites: dict[str, Site] = {}
    for attribute, layer in list(block.named_children()):
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
            short = attribute.replace("bn", "norm")
            width = layer.weight.shape[0]
            sites[short] = Site(f"{name}.{short}", layer, width, channels_first=True)
            setattr(block, attribute, sites[short])
    return sites
