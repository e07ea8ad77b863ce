"""Take pictures in whatever form they come, as a stream would read them.

``docs/how-to/pixels.md`` tells the rules: the same ones that the images of a stream are read by. An array of
three dimensions is one picture, never a batch of grey ones: taken for a batch, a picture whose channels come
first would be answered as three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clbench.data.decode import UNREADABLE, decode_file, fit, quiet_pillow
from clbench.data.fitting import fitted
from clbench.data.pixels import PixelError, array_rule
from clbench.errors import UserError
from clbench.outside.foreign import first_line
from clbench.outside.visible import visible

Picture: TypeAlias = "str | Path | Image.Image | NDArray[Any] | Tensor"
Pictures: TypeAlias = "Picture | Sequence[Picture]"
CHANNELS = (1, 2, 3, 4)
KINDS = "paths, PIL images, arrays, tensors, and lists of these"
SHAPES = (
    "arrays are (H, W), (H, W, C) or (N, H, W, C), tensors (H, W), (C, H, W) or (N, C, H, W), C from 1 to 4;"
    " several grey ones have a channel, too, as in array[..., None] or tensor[:, None]"
)


class PictureError(UserError, ValueError):
    """Something given that is no picture, or none that can be read faithfully."""


def read_pictures(given: Pictures, size: tuple[int, int], batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures in batches (n, H, W, 3), at the height and width that a stream stores them at.

    All are read as they are needed; ImageError or PictureError tells which cannot be.
    """
    if batch_size < 1:
        raise PictureError(f"batch_size is {batch_size}; at least one picture is seen at a time")
    pictures = _pictures(given, size)
    while batch := list(islice(pictures, batch_size)):
        yield np.stack(batch)


def _pictures(given: Pictures, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yield each picture as (H, W, 3)."""
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        yield from _read(given, size)
        return
    for place, each in enumerate(given):
        try:
            yield from _read(each, size)
        except PictureError as error:
            raise PictureError(f"number {place} of the list: {error}") from error


def _read(given: Picture, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    if isinstance(given, (str, Path)):
        yield decode_file(Path(given), size)
    elif isinstance(given, Image.Image):
        yield _of_image(given, size)
    elif isinstance(given, Tensor):
        yield from _of_array(_of_tensor(given), size, f"a tensor of shape {tuple(given.shape)}")
    elif isinstance(given, np.ndarray):
        yield from _of_array(np.asarray(given), size, f"an array of shape {given.shape}")
    else:
        raise PictureError(f"{type(given).__name__} is no kind of picture (allowed: {KINDS})")


def _of_image(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a PIL image as a file is read; of one that was opened and not loaded, the file is read now."""
    try:
        with quiet_pillow():
            return fit(image, size)
    except UNREADABLE as error:
        name = visible(str(getattr(image, "filename", ""))) or f"of {image.width} x {image.height} pixels"
        raise PictureError(f"cannot read the PIL image {name}: {first_line(error)}") from error


def _of_tensor(tensor: Tensor) -> NDArray[np.generic]:
    """Return a tensor, whose channels come first, as an array, whose channels come last."""
    try:
        values = tensor.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:  # numpy has no bfloat16
            values = values.float()
        array: NDArray[np.generic] = values.numpy()
    except (RuntimeError, TypeError) as error:  # it is sparse, or quantised, or has no values
        raise PictureError(f"a tensor that is no array of numbers: {first_line(error)}") from error
    return np.moveaxis(array, -3, -1) if array.ndim > 2 else array


def _of_array(array: NDArray[np.generic], size: tuple[int, int], what: str) -> Iterator[NDArray[np.uint8]]:
    """Yield what an array shows, one by one: the memory of a large batch would be needed several times."""
    images = array[..., None] if array.ndim == 2 else array
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[3] not in CHANNELS or 0 in images.shape[1:]:
        raise PictureError(f"{what} is no picture ({SHAPES})")
    if not len(images):
        return
    try:
        is_open = images.dtype.kind in "fu" and images.dtype != np.uint8  # what its numbers mean
        ends = (float(images.min()), float(images.max())) if is_open else ()
        rule = array_rule(images.dtype, *ends)
    except PixelError as error:
        raise PictureError(f"{what}: {error}") from error
    for image in images:
        yield fitted(rule(image[None]), size)[0]
