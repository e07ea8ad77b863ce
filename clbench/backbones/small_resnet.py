"""Build timm's ResNets for images of 32 pixels: a 3 x 3 stem, no max-pooling, few channels."""

from __future__ import annotations

from collections.abc import Sequence

from timm.models.resnet import BasicBlock, ResNet
from torch import nn


def small_resnet(blocks: Sequence[int], channels: Sequence[int]) -> ResNet:
    """Return a network of so many basic blocks and channels a stage, random and without classifier."""
    stem = channels[0]
    # timm's deep stem is the one whose width can be chosen; its convolutions are replaced by a single one
    model = ResNet(
        BasicBlock,
        blocks,
        num_classes=0,
        stem_type="deep",
        stem_width=stem // 2,
        channels=channels,
        zero_init_last=False,
    )
    model.conv1 = nn.Conv2d(3, stem, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model
