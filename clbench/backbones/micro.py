"""Build ``vit-micro``: a Vision Transformer small enough to ship inside the package.

Five convolutions bring an image of 32 pixels to a 4 x 4 grid, one patch of 8 pixels each (T. Xiao et al.,
"Early Convolutions Help Transformers See Better", NeurIPS 2021, arXiv 2106.14881); four blocks of width 128
follow: 1.1 million parameters, 2.2 MB as fp16. It exists so that everything can be tried without a download;
how its weights were made, on what and how good they are is told in ``weights/vit-micro.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import resources
from typing import Any, ClassVar

from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from clbench.backbones import register
from clbench.backbones.architecture import Architecture
from clbench.backbones.backbone import Preprocessing
from clbench.backbones.pixelwise import PixelwiseConv2d
from clbench.backbones.weights import load_weights

IMAGE_SIZE = 32
PATCH_SIZE, WIDTH, DEPTH, HEADS, MLP_RATIO = 8, 128, 4, 4, 2
STEM = ((32, 1), (64, 2), (128, 2), (128, 1), (256, 2))  # channels and stride of each convolution
MEAN = STD = (0.5, 0.5, 0.5)


class ConvolutionalPatches(PatchEmbed):  # type: ignore[misc]  # timm declares no types
    """timm's patch embedding behind convolutions, each with batch norm and ReLU."""

    def __init__(self, *, stem: Sequence[tuple[int, int]], **options: Any) -> None:
        """Take timm's own options; the strides of the stem multiply to the patch size."""
        super().__init__(**options)
        channels = [3, *(each for each, _ in stem)]
        self.stem = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                )
                for before, (after, stride) in zip(channels, stem, strict=False)
            )
        )
        self.proj = PixelwiseConv2d(channels[-1], options["embed_dim"])

    def forward(self, images: Tensor) -> Tensor:
        """Return the patches (B, N, D) of images (B, 3, S, S)."""
        maps = self.proj(self.stem(images))
        patches: Tensor = self.norm(maps.flatten(2).transpose(1, 2))
        return patches


def vit_micro(image_size: int = IMAGE_SIZE, num_classes: int = 0) -> VisionTransformer:
    """Return the network with random weights; ``num_classes=0`` leaves the classifier away."""
    return VisionTransformer(
        img_size=image_size,
        patch_size=PATCH_SIZE,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=MLP_RATIO,
        num_classes=num_classes,
        embed_layer=partial(ConvolutionalPatches, stem=STEM),
    )


def first_vit_micro() -> VisionTransformer:
    """Return what was called vit-micro at first, with random weights: six plain blocks, no convolutions."""
    return VisionTransformer(
        img_size=IMAGE_SIZE, patch_size=PATCH_SIZE, embed_dim=WIDTH, depth=6, num_heads=HEADS, num_classes=0
    )


@register("vit-micro")
class ViTMicro(Architecture):
    """Ours, pre-trained on 32-pixel images; ships with the package."""

    file_name: ClassVar[str] = "vit-micro"

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        network: nn.Module = vit_micro()
        return network

    def published(self) -> tuple[nn.Module, str]:
        """Return the network with the weights of this package, up-cast from half precision."""
        model = self.build()
        packed = resources.files("clbench.backbones") / "weights" / f"{self.file_name}.safetensors"
        with resources.as_file(packed) as file:
            load_weights(model, file)
        return model, "clbench vit-micro"

    def earlier(self) -> Sequence[Architecture]:
        """Return the first one."""
        return (FirstViTMicro(),)

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return what it was trained with."""
        return Preprocessing(image_size=IMAGE_SIZE, mean=MEAN, std=STD, crop=1.0, interpolation="bilinear")


class FirstViTMicro(ViTMicro):
    """What records were made with before there was a better one."""

    file_name: ClassVar[str] = "vit-micro-1"

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        network: nn.Module = first_vit_micro()
        return network

    def earlier(self) -> Sequence[Architecture]:
        """Return none."""
        return ()
