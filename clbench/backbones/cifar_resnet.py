"""Build ``resnet20``: the residual network of 20 layers for 32-pixel images.

K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385, section 4.2: three
stages of three blocks of 16, 32 and 64 channels, a 3 x 3 stem, no max-pooling, and shortcuts without
parameters (option A); 269,072 parameters without the classifier.

The paper does not say where a shortcut's zero channels go: half of them before the others, half after, as in
the networks that are shared as files.
"""

from __future__ import annotations

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones import register
from clbench.backbones.architecture import Architecture
from clbench.backbones.backbone import Preprocessing
from clbench.backbones.small_resnet import small_resnet
from clbench.backbones.weights import WeightsError

CHANNELS = (16, 32, 64)
BLOCKS = (3, 3, 3)


@register("resnet20")
class ResNet20(Architecture):
    """The ResNet-20 of CIFAR-10; its weights come from a file."""

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        model = small_resnet(BLOCKS, CHANNELS)
        for stage in (model.layer2, model.layer3):
            stage[0].downsample = ZeroPadded(stage[0].conv1.out_channels - stage[0].conv1.in_channels)
        model.layer4 = nn.Sequential()  # timm's forward pass has four stages
        network: nn.Module = model
        return network

    def published(self) -> tuple[nn.Module, str]:
        """Refuse: there are no weights of its authors'."""
        raise WeightsError(
            "no weights are published for resnet20; give a file with --set backbone.weights=FILE.safetensors,"
            " put resnet20.safetensors into the --data-dir, or take random ones with"
            " --set backbone.weights=none"
        )

    def file_names(self) -> tuple[str, ...]:
        """Return the one name under which a user may have put weights beside the data."""
        return ("resnet20",)

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return 32 pixels a side, normalised as ImageNet's are."""
        return Preprocessing(
            image_size=32,
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            crop=1.0,
            interpolation="bilinear",
        )


class ZeroPadded(nn.Module):
    """A shortcut to half the resolution: every other pixel, and channels of zeros."""

    def __init__(self, num_zeros: int) -> None:
        """Add ``num_zeros`` channels, half of them in front."""
        super().__init__()
        self.num_zeros = num_zeros

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps (B, C, H, W) as (B, C + zeros, H / 2, W / 2)."""
        before = self.num_zeros // 2
        return F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, before, self.num_zeros - before))
