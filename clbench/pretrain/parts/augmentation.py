"""Change normalised images further, as DeiT does: a random augmentation by name, and random erasing.

E. D. Cubuk et al., "RandAugment", NeurIPS 2020, arXiv 1909.13719; Z. Zhong et al., "Random Erasing Data
Augmentation", AAAI 2020, arXiv 1708.04896. Both are timm's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import auto_augment_transform, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from clbench.backbones.backbone import Preprocessing
from clbench.errors import UserError
from clbench.seeds import forked_everywhere

Transform = Callable[[Image.Image], Image.Image]


def augmenter(name: str, preprocessing: Preprocessing) -> Transform:
    """Return what changes one picture; UserError in one line for a name that timm does not know."""
    grey = tuple(round(255 * mean) for mean in preprocessing.mean)  # what is uncovered at the edges
    chosen: dict[str, Any] = {"img_mean": grey, "translate_const": int(preprocessing.image_size * 0.45)}
    make = rand_augment_transform if name.startswith("rand-") else auto_augment_transform
    try:
        return cast("Transform", make(name, chosen))
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(
            f"pretrain.auto_augment: timm knows no {name!r}; take rand-m9-mstd0.5-inc1, or another such name"
        ) from error


def augmented(images: Tensor, transform: Transform, preprocessing: Preprocessing, seed: int) -> Tensor:
    """Return normalised images (B, 3, S, S), each as the transform makes it of its 256 levels a colour."""
    mean, std = (
        torch.tensor(each, device=images.device).view(1, -1, 1, 1)
        for each in (preprocessing.mean, preprocessing.std)
    )
    levels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    with forked_everywhere(seed):
        changed = [np.asarray(transform(Image.fromarray(each))) for each in levels.cpu().numpy()]
    pixels = torch.from_numpy(np.stack(changed)).to(images.device, images.dtype).permute(0, 3, 1, 2)
    return (pixels / 255 - mean) / std


def erased(images: Tensor, rate: float, seed: int) -> Tensor:
    """Return normalised images (B, 3, S, S), a share of them with a rectangle of noise, in place."""
    erase = RandomErasing(rate, mode="pixel", device=str(images.device))
    with forked_everywhere(seed):
        return cast("Tensor", erase(images))
