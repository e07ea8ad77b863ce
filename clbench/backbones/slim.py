"""Build ``slim-resnet18``: the small ResNet-18 that online continual learning is measured with.

D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory", NeurIPS 2017, arXiv 1706.08840: 20, 40, 80 and 160
channels instead of 64 to 512, a 3 x 3 stem and no max-pooling; 1,093,140 parameters without the classifier.
It is trained from scratch, so its published weights are random ones.
"""

from __future__ import annotations

from torch import nn

from clbench.backbones import register
from clbench.backbones.architecture import Architecture
from clbench.backbones.backbone import Preprocessing
from clbench.backbones.small_resnet import small_resnet

CHANNELS = (20, 40, 80, 160)


@register("slim-resnet18", weights="none")
class SlimResNet18(Architecture):
    """The reduced ResNet-18 of online continual learning; train it with ``--petl full``."""

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        model: nn.Module = small_resnet((2, 2, 2, 2), CHANNELS)
        return model

    def published(self) -> tuple[nn.Module, str]:
        """Return the network with random weights: there are no others."""
        return self.build(), "random"

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return 32 pixels a side, scaled to [-1, 1]."""
        half = (0.5, 0.5, 0.5)
        return Preprocessing(image_size=32, mean=half, std=half, crop=1.0, interpolation="bilinear")
