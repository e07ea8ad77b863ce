"""Batched transforms: the same pixels as torchvision's, the same draws as its classes describe."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from clbench.data.transforms import (
    AUGMENTS,
    Boxes,
    centre_box,
    padded_crop_boxes,
    random_resized_boxes,
    resample,
    resample_by_products,
    resample_each,
)


def noise(count: int, size: int, low: int = 0, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(low, high, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def by_torchvision(images: Tensor, boxes: Boxes, size: int, interpolation: str) -> Tensor:
    """Return what torchvision makes of each image in float, where it does not round."""
    rows = []
    for image, box, flip in zip(images.float(), boxes.sides().int().tolist(), boxes.flip, strict=True):
        mode = InterpolationMode(interpolation)
        row = vision.resized_crop(image, *box, size=[size, size], interpolation=mode, antialias=True)
        rows.append(row.flip(2) if flip else row)
    return torch.stack(rows).clamp(0, 255)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("source", "size"), [(32, 32), (32, 48), (96, 64)])
def test_products_equal_torchvisions_resized_crop(source: int, size: int, interpolation: str) -> None:
    images = noise(6, source)
    boxes = random_resized_boxes(6, source, source, torch.Generator().manual_seed(1))
    mine = resample_by_products(images, boxes, size, interpolation)
    # two orders of the same float32 sums of values up to 255
    torch.testing.assert_close(mine, by_torchvision(images, boxes, size, interpolation), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("interpolation", "tolerance"),
    # The uint8 resize rounds after the rows and after the columns: half a level each, the first of which
    # the second pass carries on, times the sum of its absolute weights: 1 (bilinear), up to 1.3 (bicubic).
    # A cubic that overshoots black or white is cut off after the first pass too; grey noise stays clear of
    # that.
    [("bilinear", 1.01), ("bicubic", 1.2)],
)
@pytest.mark.parametrize(("source", "size"), [(32, 32), (32, 48), (96, 64)])
def test_uint8_resize_is_within_a_grey_level_of_the_products(
    source: int, size: int, interpolation: str, tolerance: float
) -> None:
    images = noise(6, source, low=96, high=160)
    boxes = random_resized_boxes(6, source, source, torch.Generator().manual_seed(1))
    rounded = resample_each(images, boxes, size, interpolation)
    exact = resample_by_products(images, boxes, size, interpolation)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=tolerance)
    assert torch.equal(rounded, rounded.round())


def test_a_box_that_begins_inside_a_pixel_is_resampled_without_rounding() -> None:
    images = noise(2, 33)
    box = centre_box(33, 33, crop=0.9)  # 29.7 pixels
    assert torch.equal(
        resample(images, box, 16, "bilinear"), resample_by_products(images, box, 16, "bilinear")
    )


def test_the_whole_image_at_its_own_size_is_itself() -> None:
    images = noise(3, 8)
    boxes = AUGMENTS["none"](3, 8, 8, torch.Generator())
    assert torch.equal(resample(images, boxes, 8, "bicubic"), images.float())


@pytest.mark.parametrize("resampler", [resample_each, resample_by_products])
def test_flip_mirrors_left_to_right(resampler: object) -> None:
    assert callable(resampler)
    images = noise(1, 4)
    sides = [torch.tensor([value]) for value in (0.0, 0.0, 4.0, 4.0)]
    mirrored = resampler(images, Boxes(*sides, flip=torch.tensor([True])), 4, "bilinear")
    assert torch.equal(mirrored, images.flip(3).float())


@pytest.mark.parametrize("name", AUGMENTS)
def test_an_images_transform_does_not_depend_on_its_batch_mates(name: str) -> None:
    images = noise(4, 16)
    boxes = AUGMENTS[name](4, 16, 16, torch.Generator().manual_seed(0))
    if len(boxes.top) == 1:
        alone = boxes
    else:
        third = {side: value[2:3] for side, value in vars(boxes).items() if side != "pad"}
        alone = Boxes(**third, pad=boxes.pad)
    together = resample(images, boxes, 12, "bicubic")
    assert torch.equal(resample(images[2:3], alone, 12, "bicubic"), together[2:3])


def test_padded_crop_shifts_by_at_most_an_eighth_and_fills_with_black() -> None:
    images = noise(1, 8, low=1).expand(200, 3, 8, 8)
    boxes = padded_crop_boxes(200, 8, 8, torch.Generator().manual_seed(0), flip_rate=0.0)
    assert set(boxes.top.tolist()) == set(boxes.left.tolist()) == {0.0, 1.0, 2.0}
    crops = resample(images, boxes, 8, "bilinear")
    first = next(index for index, (top, left) in enumerate(boxes.sides()[:, :2]) if top == 0 and left == 2)
    # a box one pixel above and one to the right: a black row on top, a black column on the right
    assert torch.equal(crops[first, :, 1:, :-1], images[0, :, :-1, 1:].float())
    assert crops[first, :, 0].max() == crops[first, :, :, -1].max() == 0


@pytest.mark.parametrize(("name", "rate"), [("rrc", 0), ("crop", 0), ("rrc-flip", 0.5), ("crop-flip", 0.5)])
def test_only_names_with_flip_mirror(name: str, rate: float) -> None:
    boxes = AUGMENTS[name](4000, 32, 32, torch.Generator().manual_seed(0))
    assert abs(boxes.flip.float().mean().item() - rate) < 0.03  # 4000 draws: four standard deviations


def test_random_resized_boxes_lie_inside_and_have_the_asked_area_and_aspect() -> None:
    boxes = random_resized_boxes(2000, 64, 48, torch.Generator().manual_seed(0), scale=(0.25, 1.0))
    assert (boxes.top >= 0).all()
    assert (boxes.top + boxes.height <= 64).all()
    assert (boxes.left + boxes.width <= 48).all()
    area = boxes.height * boxes.width / (64 * 48)
    aspect = boxes.width / boxes.height
    assert 0.23 < area.min() < 0.3  # rounding to whole pixels moves a box of 28 by half a pixel a side
    assert aspect.min() > 0.7
    assert aspect.max() < 1.4
    assert torch.equal(boxes.sides(), boxes.sides().round())


def test_boxes_copied_to_a_device_keep_their_padding() -> None:
    boxes = padded_crop_boxes(3, 16, 16, torch.Generator().manual_seed(0))
    copied = boxes.to(torch.device("cpu"))
    assert copied.pad == 2
    assert torch.equal(copied.sides(), boxes.sides())
