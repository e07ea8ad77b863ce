"""The resize that goes into an exported graph gives the levels of torch's own, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clbench.backbones.backbone import Preprocessing
from clbench.data.batches import Batcher
from clbench.data.exact_resize import resize_exactly, whole_weights
from clbench.data.plain_transform import PlainTransform

SIDES = [(8, 32), (28, 32), (32, 224), (33, 100), (97, 64), (224, 96), (256, 224), (300, 8)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("source", "size"), SIDES)
def test_levels_are_those_of_torch(source: int, size: int, interpolation: str) -> None:
    generator = torch.Generator().manual_seed(source)
    images = torch.randint(256, (3, 3, source, source), generator=generator, dtype=torch.uint8)
    images[1] = (images[1] > 127) * 255  # a cubic overshoots at such edges
    images[2] = torch.arange(source) % 256  # a ramp, whose samples often lie half-way
    weights = whole_weights(source, size, interpolation)
    theirs = F.interpolate(images, (size, size), mode=interpolation, antialias=True)
    assert torch.equal(resize_exactly(images, weights, weights), theirs.double())


def test_rows_and_columns_have_weights_of_their_own() -> None:
    images = torch.randint(256, (1, 3, 20, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    columns, rows = whole_weights(50, 32, "bilinear"), whole_weights(20, 32, "bilinear")
    theirs = F.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    assert torch.equal(resize_exactly(images, columns, rows), theirs.double())


@pytest.mark.parametrize(
    "crop", [1.0, 0.875, 0.9]
)  # of 32 pixels: all, 28, and 28.8, which is no whole number
@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 41), (24, 24)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_plain_transform_is_that_of_a_batch(height: int, width: int, crop: float, interpolation: str) -> None:
    seen = Preprocessing(24, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop=crop, interpolation=interpolation)
    pixels = np.random.default_rng(0).integers(256, size=(4, height, width, 3), dtype=np.uint8)
    ours = PlainTransform(seen, height, width)(torch.from_numpy(pixels))
    batch = Batcher(pixels, seen, "none", torch.device("cpu")).test_batch(np.arange(4))
    # 1e-5: where the box begins inside a pixel, the products in float32 may be summed in another order
    assert torch.allclose(ours, batch, rtol=0, atol=1e-5)
    if crop == 1.0:
        assert torch.equal(ours, batch)
