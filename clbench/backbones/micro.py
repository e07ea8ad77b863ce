"""Build ``vit-micro``: a Vision Transformer small enough to ship inside the package.

Six blocks of width 128 on a 4 x 4 grid of 8-pixel patches of a 32-pixel image: 1.2 million parameters, 2.4 MB
as fp16. It exists so that everything can be tried without a download; how its weights were made, on what and
how good they are is told in ``weights/vit-micro.md``.
"""

from __future__ import annotations

from importlib import resources

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from clbench.backbones import register
from clbench.backbones.architecture import Architecture
from clbench.backbones.backbone import Preprocessing
from clbench.backbones.weights import load_weights

IMAGE_SIZE = 32
MEAN = STD = (0.5, 0.5, 0.5)


def vit_micro(image_size: int = IMAGE_SIZE, num_classes: int = 0) -> VisionTransformer:
    """Return the network with random weights; ``num_classes=0`` leaves the classifier away."""
    return VisionTransformer(
        img_size=image_size, patch_size=8, embed_dim=128, depth=6, num_heads=4, num_classes=num_classes
    )


@register("vit-micro")
class ViTMicro(Architecture):
    """Ours, pre-trained on 32-pixel images; ships with the package."""

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        network: nn.Module = vit_micro()
        return network

    def published(self) -> tuple[nn.Module, str]:
        """Return the network with the weights of this package, up-cast from half precision."""
        model = self.build()
        packed = resources.files("clbench.backbones") / "weights" / "vit-micro.safetensors"
        with resources.as_file(packed) as file:
            load_weights(model, file)
        return model, "clbench vit-micro"

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return what it was trained with."""
        return Preprocessing(image_size=IMAGE_SIZE, mean=MEAN, std=STD, crop=1.0, interpolation="bilinear")
