"""Draw images of generated glyphs: strokes at random, labelled by which of them belong together.

Small collections of photographs say little about drawn shapes. A class is a few bent strokes; an image shows
them a little displaced, turned, sheared, thicker or thinner, sharper or softer, in two colours or white on
black. They are of no alphabet: nothing that a stream tests on is among them but by chance.

Shape letters: G glyphs, B images, S strokes, P points of a stroke, H and W pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.pretrain.materials import Materials

FEWEST, MOST = 2, 4  # strokes of a glyph
POINTS = 32  # that a stroke is drawn by
JITTER = 0.04  # standard deviation of a stroke's three control points, in sides of the image
TURN, SHEAR, SHIFT = math.radians(15), 0.2, 0.08  # at most, the last in sides of the image
SIZES = (0.75, 1.1)  # of a glyph
WIDTHS, BLURS = (0.06, 0.18), (0.01, 0.06)  # of a stroke and of its edge, in sides of the image
WHITE_ON_BLACK = 0.4  # share of the images
AT_ONCE = 500  # images
IMAGES = 50  # of each class


def with_glyphs(materials: Materials, num_classes: int) -> Materials:
    """Return materials with so many classes of glyphs beside their own, if any."""
    if not num_classes:
        return materials
    height, width = materials.batcher.images.shape[1:3]
    generator = materials.seeds.generator("glyphs")
    return materials.with_more(*glyphs(num_classes, IMAGES, (height, width), generator))


def glyphs(
    num_classes: int, per_class: int, size: tuple[int, int], generator: torch.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (G * per_class, H, W, 3) of a size (H, W), and their labels, from 0."""
    controls_GS32 = torch.rand(num_classes, MOST, 3, 2, generator=generator) * 0.7 + 0.15
    strokes_G = torch.randint(FEWEST, MOST + 1, (num_classes,), generator=generator)
    is_drawn_GS = torch.arange(MOST) < strokes_G[:, None]
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    images = [
        _drawn(controls_GS32[some], is_drawn_GS[some], size, generator)
        for some in torch.split(labels, AT_ONCE)
    ]
    return torch.cat(images).numpy(), labels.numpy()


def _drawn(
    controls_BS32: Tensor, is_drawn_BS: Tensor, size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Return images (B, H, W, 3) uint8 of glyphs with these control points."""
    count = len(controls_BS32)
    jittered = controls_BS32 + JITTER * torch.randn(controls_BS32.shape, generator=generator)
    points_BSP2 = _moved(_curves(jittered), generator)
    far = torch.full_like(points_BSP2, 9.0)  # where strokes are that a glyph does not have
    points_B_2 = torch.where(is_drawn_BS[:, :, None, None], points_BSP2, far).flatten(1, 2)
    down, across = ((torch.arange(side) + 0.5) / side for side in size)
    pixels_HW2 = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)
    distance_BHW = torch.cdist(pixels_HW2.reshape(1, -1, 2), points_B_2).amin(dim=2).view(count, *size)
    width, blur = (_uniform(count, *bounds, generator) for bounds in (WIDTHS, BLURS))
    ink_BHW1 = torch.sigmoid((width / 2 - distance_BHW) / (blur / 2))[..., None]
    paper, pen = _colours(count, generator)
    return (255 * (paper + (pen - paper) * ink_BHW1)).round().clamp(0, 255).to(torch.uint8)


def _curves(controls_BS32: Tensor) -> Tensor:
    """Return points (B, S, P, 2) of the quadratic curves that three control points each make."""
    place = torch.linspace(0, 1, POINTS)
    weights_P3 = torch.stack([(1 - place) ** 2, 2 * place * (1 - place), place**2], dim=1)
    return weights_P3 @ controls_BS32


def _moved(points_BSP2: Tensor, generator: torch.Generator) -> Tensor:
    """Return the points turned, sheared, resized and displaced, each glyph by its own draw."""
    count = len(points_BSP2)
    turn, shear = (_uniform(count, -most, most, generator).flatten() for most in (TURN, SHEAR))
    sizes = _uniform(count, *SIZES, generator)
    cos, sin = turn.cos(), turn.sin()
    turned = torch.stack([cos, -sin + shear * cos, sin, cos + shear * sin], dim=1).view(count, 1, 2, 2)
    shift = _uniform(2 * count, -SHIFT, SHIFT, generator).view(count, 1, 1, 2)
    return sizes[..., None] * ((points_BSP2 - 0.5) @ turned) + 0.5 + shift


def _colours(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the colours (B, 1, 1, 3) in [0, 1] of paper and pen, which differ by half the range at least."""
    paper, pen = torch.rand(2, count, 1, 1, 3, generator=generator)
    pen = torch.where((pen - paper).abs() < 0.5, (paper + 0.5) % 1, pen)
    is_plain = torch.rand(count, 1, 1, 1, generator=generator) < WHITE_ON_BLACK
    return torch.where(is_plain, torch.zeros(()), paper), torch.where(is_plain, torch.ones(()), pen)


def _uniform(count: int, least: float, most: float, generator: torch.Generator) -> Tensor:
    """Return numbers (count, 1, 1) between two."""
    return least + (most - least) * torch.rand(count, 1, 1, generator=generator)
