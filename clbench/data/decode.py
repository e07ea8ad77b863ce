"""Decode image files into uint8 arrays of one size.

PIL and not ``torchvision.io``: it reads the formats found in the wild and lets go of Python's lock, so that a
few threads keep all processors busy; each image is decoded once, so that speed matters less than in training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from clbench.errors import UserError

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LARGEST_NATIVE = 256  # pixels; images of one size up to this are kept as they are
CHUNK = 64  # images decoded before they are written


T = TypeVar("T")


class ImageError(UserError):
    """A file that is no image, or no whole one."""


def common_size(files: Sequence[Path], stored_size: int) -> tuple[int, int]:
    """Return the height and width at which these images are to be kept.

    ``stored_size`` pixels square; 0 keeps the size that all images share, and means 256 where they do not.
    """
    if stored_size:
        return stored_size, stored_size
    shared = None
    for file in files:
        size = _read(file, lambda image: (image.height, image.width))
        if max(size) > LARGEST_NATIVE or size != (shared or size):
            return LARGEST_NATIVE, LARGEST_NATIVE
        shared = size
    return shared or (LARGEST_NATIVE, LARGEST_NATIVE)


def decode_files(files: Sequence[Path], size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images in order, as (n, H, W, 3) chunks."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), CHUNK):
            yield np.stack(list(pool.map(partial(decode_file, size=size), files[start : start + CHUNK])))


def decode_file(file: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return one image as (H, W, 3); ImageError names the file if it cannot be read."""
    return _read(file, partial(fit, size=size))


def fit(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture as RGB, resized with antialiasing until it covers the size, and cut at its centre."""
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette may hold transparency, which RGB alone would warn of
    image = image.convert("RGB")
    if (image.height, image.width) != size:
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _read(file: Path, use: Callable[[Image.Image], T]) -> T:
    try:
        with Image.open(file) as image:
            return use(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image, or damaged" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ImageError(f"cannot read the image {file}: {reason}") from error
