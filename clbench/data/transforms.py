"""Crop, resize, flip and normalise a whole uint8 batch at once, each image with its own draw.

A crop followed by a resize is linear in the pixels and separable, so a batch is resampled by two small
batched matrix products, on whatever device the images are on. The weights are those of PIL and of torchvision
with ``antialias=True``: a triangle (bilinear) or Keys' cubic with a = -0.5 (bicubic), widened when shrinking.

Shape letters: B batch, C channels, H W source height and width, S output size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Kernel = Callable[[Tensor], Tensor]


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_min(0)


def _cubic(distance: Tensor) -> Tensor:
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


KERNELS: dict[str, tuple[Kernel, float]] = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}


@dataclass(frozen=True)
class Boxes:
    """Regions of the source, one an image (or one for all), in pixels; ``flip`` mirrors left to right."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor

    def to(self, device: torch.device) -> Boxes:
        """Copy the boxes to a device without waiting for it."""
        return Boxes(*(part.to(device, non_blocking=True) for part in vars(self).values()))


def resample_weights(start: Tensor, length: Tensor, source: int, size: int, interpolation: str) -> Tensor:
    """Return the (B, size, source) matrix that resizes ``[start, start + length)`` to ``size`` samples.

    Only pixels inside the region contribute, as if it had been cut out first; each row sums to one.
    """
    kernel, radius = KERNELS[interpolation]
    scale = (length / size)[:, None, None]
    support = scale.clamp_min(1.0)
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[None, :, None] + 0.5) * scale
    pixel = torch.arange(source, device=start.device)[None, None, :] + 0.5
    distance = (pixel - centre).abs() / support
    first, last = start[:, None, None], (start + length)[:, None, None]
    inside = (pixel > first) & (pixel < last) & (distance < radius)
    weight = torch.where(inside, kernel(distance), torch.zeros_like(distance))
    return weight / weight.sum(-1, keepdim=True)


def resample(images: Tensor, boxes: Boxes, size: int, interpolation: str) -> Tensor:
    """Resize a box of each uint8 image (B, C, H, W) to (B, C, size, size) float in [0, 255]."""
    height, width = images.shape[-2:]
    rows = resample_weights(boxes.top, boxes.height, height, size, interpolation)
    columns = resample_weights(boxes.left, boxes.width, width, size, interpolation)
    columns = torch.where(boxes.flip[:, None, None], columns.flip(1), columns)
    resized = rows[:, None] @ images.to(rows.dtype) @ columns.transpose(1, 2)[:, None]
    return resized.clamp_(0, 255)


def centre_box(height: int, width: int, crop: float) -> Boxes:
    """Return the centred square that covers ``crop`` of the shorter side, as the usual test transform does."""
    side = min(height, width) * crop
    top, left = (height - side) / 2, (width - side) / 2
    return Boxes(*(torch.tensor([value]) for value in (top, left, side, side)), flip=torch.tensor([False]))


def random_resized_boxes(
    count: int,
    height: int,
    width: int,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip_rate: float = 0.5,
) -> Boxes:
    """Draw torchvision's RandomResizedCrop: area uniform in ``scale``, log aspect uniform in ``ratio``.

    Ten tries an image, then the centre; the box is placed at whole pixels.
    """
    tries = 10
    area = height * width * torch.empty(count, tries).uniform_(*scale, generator=generator)
    log_ratio = torch.empty(count, tries).uniform_(
        math.log(ratio[0]), math.log(ratio[1]), generator=generator
    )
    box_width = (area * log_ratio.exp()).sqrt().round()
    box_height = (area / log_ratio.exp()).sqrt().round()
    fits = (box_width >= 1) & (box_width <= width) & (box_height >= 1) & (box_height <= height)
    chosen = fits.to(torch.uint8).argmax(1, keepdim=True)
    failed = ~fits.any(1)
    side = float(min(height, width))
    box_width = box_width.gather(1, chosen)[:, 0].masked_fill(failed, side)
    box_height = box_height.gather(1, chosen)[:, 0].masked_fill(failed, side)
    place = torch.rand(2, count, generator=generator)
    top = (place[0] * (height - box_height + 1)).floor()
    left = (place[1] * (width - box_width + 1)).floor()
    flip = torch.rand(count, generator=generator) < flip_rate
    return Boxes(top, left, box_height, box_width, flip)
