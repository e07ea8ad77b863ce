"""Build ``slim-resnet18``: the small ResNet-18 that online continual learning is measured with.

D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory", NeurIPS 2017, arXiv 1706.08840: 20, 40, 80 and 160
channels instead of 64 to 512, a 3 x 3 stem and no max-pooling; 1,093,140 parameters without the classifier.
It is trained from scratch, so its published weights are random ones.
"""

from __future__ import annotations

from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from clbench.backbones import register
from clbench.backbones.architecture import Architecture
from clbench.backbones.backbone import Preprocessing

CHANNELS = (20, 40, 80, 160)


@register("slim-resnet18", weights="none")
class SlimResNet18(Architecture):
    """The reduced ResNet-18 of online continual learning; train it with ``--petl full``."""

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        stem = CHANNELS[0]
        # timm's deep stem is the one whose width can be chosen; its convolutions are replaced by a single one
        model: nn.Module = ResNet(
            BasicBlock,
            (2, 2, 2, 2),
            num_classes=0,
            stem_type="deep",
            stem_width=stem // 2,
            channels=CHANNELS,
            zero_init_last=False,
        )
        model.conv1 = nn.Conv2d(3, stem, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
        return model

    def published(self) -> tuple[nn.Module, str]:
        """Return the network with random weights: there are no others."""
        return self.build(), "random"

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return 32 pixels a side, scaled to [-1, 1]."""
        half = (0.5, 0.5, 0.5)
        return Preprocessing(image_size=32, mean=half, std=half, crop=1.0, interpolation="bilinear")
