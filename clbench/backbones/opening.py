"""Dispatch on the class of a timm model to the functions of its family: one opens it, one resizes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatch

import torch
from torch import nn

from clbench.backbones.sites import BlockSites, Site
from clbench.errors import UserError


class CannotOpenError(UserError, TypeError):
    """A model of a family without named sites."""


class ImageSizeError(UserError, ValueError):
    """An image size that a model cannot take."""


@dataclass(frozen=True)
class Opened:
    """The sites of a model that has just been opened."""

    blocks: list[BlockSites]
    width: int  # channels of the features
    sites: dict[str, Site] = field(default_factory=dict)  # outside blocks: "embed"
    grid: tuple[int, int] | None = None
    memory_format: torch.memory_format = torch.contiguous_format  # of images, with which it computes fastest


@singledispatch
def opened(model: nn.Module) -> Opened:
    """Open a model, in place, after its classifier was removed; a family's file registers its own way."""
    raise CannotOpenError(
        f"cannot open a {type(model).__name__}: clbench opens the ViT (DeiT), Swin, ConvNeXt, ResNet and"
        " MobileNet (EfficientNet) families of timm"
    )


@singledispatch
def resize(model: nn.Module, image_size: int) -> None:
    """Make an unopened model take images of ``image_size`` pixels; a ConvNet takes any from its stride on."""
    stride = model.feature_info[-1]["reduction"]  # type: ignore[index]  # a list in every timm model
    if image_size < stride:
        raise ImageSizeError(f"backbone.image_size: {image_size} is too small; use {stride} or more")


def check_patches(image_size: int, patch_size: int) -> None:
    """Raise ImageSizeError unless whole patches tile the image."""
    if image_size % patch_size:
        below = image_size - image_size % patch_size
        near = f"{below} or {below + patch_size}" if below else str(patch_size)
        raise ImageSizeError(
            f"backbone.image_size: {image_size} is not a multiple of the patch size {patch_size}; use {near}"
        )
