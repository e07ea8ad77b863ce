"""Decode image files into uint8 arrays of one size.

PIL and not ``torchvision.io``: it reads the formats found in the wild and lets go of Python's lock, so that a
few threads keep all processors busy; each image is decoded once, so that speed matters less than in training.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from clbench.data.pixels import check_dimensions, is_touched, to_rgb, traits, upright_size
from clbench.errors import UserError
from clbench.outside.foreign import DAMAGE, first_line, regular
from clbench.outside.visible import visible

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LARGEST_NATIVE = 256  # pixels; images of one size up to this are kept as they are
# What a file of one of those endings may hold in truth. Pillow would hand others to programs beside it.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", "AVIF")
CHUNK = 64  # images decoded before they are written
LARGE = 1 << 24  # pixels; of larger pictures one is decoded at a time, that they fit into memory

UNREADABLE: tuple[type[Exception], ...] = (*DAMAGE, Image.DecompressionBombError)
T = TypeVar("T")


class ImageError(UserError):
    """A file that is no image, or no whole one, or one that cannot be read faithfully."""


def common_size(files: Sequence[Path], stored_size: int) -> tuple[int, int]:
    """Return the height and width at which these images are to be kept.

    ``stored_size`` pixels square; 0 keeps the size that all images share, and means 256 where they do not.
    """
    if stored_size:
        return stored_size, stored_size
    shared = None
    with quiet_pillow():
        for file in files:
            size = _read(file, upright_size)
            if max(size) > LARGEST_NATIVE or size != (shared or size):
                return LARGEST_NATIVE, LARGEST_NATIVE
            shared = size
    return shared or (LARGEST_NATIVE, LARGEST_NATIVE)


def decode_files(
    files: Sequence[Path], size: tuple[int, int], counts: Counter[str] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yield the images in order, as (n, H, W, 3) chunks; ``counts`` the rules by which they were read."""
    for decoded in _in_threads(files, partial(_decoded, size=size, one_large=threading.Lock())):
        if counts is not None:
            counts.update(trait for _, found in decoded for trait in found)
        yield np.stack([image for image, _ in decoded])


def decode_each(files: Sequence[Path], size: tuple[int, int]) -> Iterator[NDArray[np.uint8] | ImageError]:
    """Yield each image in order, as (H, W, 3), or what is wrong with it."""
    one_large = threading.Lock()

    def decoded(file: Path) -> NDArray[np.uint8] | ImageError:
        try:
            return _decoded(file, size, one_large)[0]
        except ImageError as error:
            return error

    for some in _in_threads(files, decoded):
        yield from some


def decode_file(file: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return one image as (H, W, 3); ImageError names the file if it cannot be read."""
    with quiet_pillow():
        return _read(file, partial(fit, size=size))


def touched(files: Sequence[Path]) -> bool:
    """Whether one of the images means something else by the rules than Pillow makes of it by itself."""
    return any(any(some) for some in _in_threads(files, lambda file: _read(file, is_touched)))


def fit(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture as RGB, resized with antialiasing until it covers the size, and cut at its centre."""
    image = to_rgb(image)
    if (image.height, image.width) != size:
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _in_threads(files: Sequence[Path], use: Callable[[Path], T]) -> Iterator[list[T]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), CHUNK):
            with quiet_pillow():
                done = list(pool.map(use, files[start : start + CHUNK]))
            yield done


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings back: of odd EXIF, and of large pictures, which are refused where too large.

    Entered by the thread that waits for the others: filters are those of the whole process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _decoded(
    file: Path, size: tuple[int, int], one_large: threading.Lock
) -> tuple[NDArray[np.uint8], list[str]]:
    def use(image: Image.Image) -> tuple[NDArray[np.uint8], list[str]]:
        with one_large if image.height * image.width > LARGE else nullcontext():
            return fit(image, size), traits(image)

    return _read(file, use)


def _read(file: Path, use: Callable[[Image.Image], T]) -> T:
    try:
        regular(file)
        with Image.open(file, formats=_formats()) as image:
            check_dimensions(image.height, image.width)
            return use(image)
    except UNREADABLE as error:
        is_foreign = isinstance(error, UnidentifiedImageError)
        reason = "not an image, or damaged" if is_foreign else first_line(error)
        raise ImageError(f"cannot read the image {visible(str(file))}: {reason}") from error


@cache
def _formats() -> tuple[str, ...]:
    """Return those that this build of Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
