"""Build ``vit-micro``: a Vision Transformer small enough to ship inside the package.

Six blocks of width 128 on a 4 x 4 grid of 8-pixel patches of a 32-pixel image: 1.2 million parameters, 2.4 MB
as fp16. It exists so that everything can be tried without a download; how its weights were made, on what and
how good they are is told in ``weights/vit-micro.md``.
"""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer

IMAGE_SIZE = 32
MEAN = STD = (0.5, 0.5, 0.5)


def vit_micro(image_size: int = IMAGE_SIZE, num_classes: int = 0) -> VisionTransformer:
    """Return the network with random weights; ``num_classes=0`` leaves the classifier away."""
    return VisionTransformer(
        img_size=image_size, patch_size=8, embed_dim=128, depth=6, num_heads=4, num_classes=num_classes
    )
