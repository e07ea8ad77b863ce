"""Take pictures in whatever form they come, as a stream would read them.

``docs/how-to/pixels.md`` tells the rules: the same ones that the images of a stream are read by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clbench.data.decode import decode_file, fit
from clbench.data.fitting import fitted
from clbench.data.pixels import PixelError, array_rule
from clbench.errors import UserError

Picture: TypeAlias = "str | Path | Image.Image | NDArray[Any] | Tensor"
Pictures: TypeAlias = "Picture | Sequence[Picture]"
CHANNELS = (1, 2, 3, 4)
SHAPES = (
    "arrays are (H, W), (H, W, C) or (N, H, W, C), tensors (H, W), (C, H, W) or (N, C, H, W), C from 1 to 4"
)


class PictureError(UserError, ValueError):
    """Something given that is no picture."""


def read_pictures(given: Pictures, size: tuple[int, int], batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures in batches (n, H, W, 3), at the height and width that a stream stores them at.

    Files are read as they are needed; ImageError, PixelError or PictureError tells which cannot be.
    """
    batch: list[NDArray[np.uint8]] = []
    for some in _pieces(given, size):
        for image in some:
            batch.append(image)
            if len(batch) == batch_size:
                yield np.stack(batch)
                batch = []
    if batch:
        yield np.stack(batch)


def _pieces(given: Pictures, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures as arrays (n, H, W, 3), as many together as were given together."""
    if isinstance(given, (str, Path)):
        yield decode_file(Path(given), size)[None]
    elif isinstance(given, Image.Image):
        yield fit(given, size)[None]
    elif isinstance(given, Tensor):
        yield fitted(_of_tensor(given), size)
    elif isinstance(given, np.ndarray):
        yield fitted(_of_array(given), size)
    elif isinstance(given, Sequence):
        for each in given:
            yield from _pieces(each, size)
    else:
        raise PictureError(
            f"a {type(given).__name__} is no picture (allowed: paths, PIL images, arrays, tensors, lists)"
        )


def _of_tensor(tensor: Tensor) -> NDArray[np.uint8]:
    """Return a tensor, whose channels come first, as images (N, H, W, 3)."""
    values = tensor.detach().cpu()
    if values.dim() == 2:
        values = values[None, None]
    elif values.dim() == 3 and values.shape[0] in CHANNELS:
        values = values[None]
    elif values.dim() != 4 or values.shape[1] not in CHANNELS:
        raise PictureError(f"a tensor of shape {tuple(tensor.shape)} is no picture ({SHAPES})")
    return _of_array(values.permute(0, 2, 3, 1).numpy())


def _of_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an array, whose channels come last, as images (N, H, W, 3)."""
    values = array
    if values.ndim == 2:
        values = values[None, ..., None]
    elif values.ndim == 3 and values.shape[-1] in CHANNELS:
        values = values[None]
    if values.ndim != 4 or values.shape[-1] not in CHANNELS or 0 in values.shape[1:]:
        raise PictureError(f"an array of shape {array.shape} is no picture ({SHAPES})")
    if not len(values):
        return np.zeros((0, *values.shape[1:3], 3), np.uint8)
    try:
        rule = array_rule(values.dtype, float(values.min()), float(values.max()))
    except PixelError as error:
        raise PixelError(f"an array of pictures: {error}") from error
    return rule(values)
