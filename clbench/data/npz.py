"""Read a collection from an ``.npz`` file, unpacking a chunk of images at a time.

Keys: ``train_x``, ``test_x`` (N, H, W) grey or (N, H, W, C) with C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGB
and alpha, of uint8, uint16, bool or floats; ``train_y``, ``test_y`` (N,) integers from 0; ``names`` (C,)
text, optional. ``clbench.data.pixels`` says what the numbers mean. Nothing in the file is ever unpickled.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from clbench.data.cache import Decoding, cached
from clbench.data.pixels import PixelError, array_rule, check_dimensions
from clbench.data.tasks import Source
from clbench.errors import UserError
from clbench.outside.foreign import DAMAGE, NpyHeader, first_line, npz_headers, regular

KEYS = ("train_x", "train_y", "test_x", "test_y")
IMAGES = ("train_x", "test_x")
CHUNK_BYTES = 1 << 22
MOST_IMAGES = 1 << 27
CHANNELS = (1, 2, 3, 4)
PIXELS = "uint8, uint16, bool or floats of shape (N, H, W) or (N, H, W, C), C up to 4, are needed"


class NpzError(UserError):
    """A file that is no collection of images."""


def read_npz(file: Path, *, cache_dir: Path) -> Source:
    """Return the collection in an ``.npz`` file, decoded in the cache."""
    try:
        status = regular(file)
    except OSError as error:
        raise NpzError(f"cannot read {file}: {first_line(error).lower()}") from error
    fingerprint = f"npz {file.resolve()} {status.st_size} {status.st_mtime_ns}"
    return cached(file.stem, cache_dir=cache_dir, fingerprint=fingerprint, decode=lambda: _decoding(file))


def _decoding(file: Path) -> Decoding:
    try:
        with zipfile.ZipFile(file) as archive:
            headers = npz_headers(archive, (*KEYS, "names"))
        _check_headers(headers, file)
        with np.load(file, allow_pickle=False) as arrays:
            num_train = headers["train_x"].shape[0]
            labels = {key: _labels(arrays[key], num_train, key, file) for key in ("train_y", "test_y")}
            names = [str(name) for name in arrays["names"]] if "names" in headers else []
        low, high = _range(file, headers["train_x"])
        rule = array_rule(headers["train_x"].dtype, low, high)
    except PixelError as error:
        raise NpzError(f"{file}: train_x and test_x: {error}") from error
    except UserError:
        raise
    except DAMAGE as error:
        raise _unreadable(file, error) from error
    if not names:
        largest = max((int(array.max()) for array in labels.values() if len(array)), default=-1)
        names = [str(number) for number in range(largest + 1)]
    return Decoding(
        height=headers["train_x"].shape[1],
        width=headers["train_x"].shape[2],
        train_labels=labels["train_y"],
        test_labels=labels["test_y"],
        class_names=names,
        chunks=(rule(chunk) for chunk in _chunks(file)),
        notes=lambda: _note(headers["train_x"], high),
    )


def _check_headers(headers: Mapping[str, NpyHeader], file: Path) -> None:
    """Expect all arrays, of shapes that fit each other, before one of them is read."""
    missing = [key for key in KEYS if key not in headers]
    if missing:
        raise NpzError(f"{file} has no {', '.join(missing)} (needed: {', '.join(KEYS)}; optional: names)")
    for key in IMAGES:
        _check_images(headers[key], key, file)
    train, test = (headers[key] for key in IMAGES)
    if train.shape[1:3] != test.shape[1:3]:
        raise NpzError(f"{file}: train_x and test_x differ in image size")
    if (train.dtype, train.shape[3:]) != (test.dtype, test.shape[3:]):
        raise NpzError(f"{file}: train_x is {train.dtype} {train.shape}, test_x is {test.dtype} {test.shape}")
    for part in ("train", "test"):
        images, labels = headers[f"{part}_x"], headers[f"{part}_y"]
        if (
            len(labels.shape) != 1 or labels.dtype.kind not in "iuO"
        ):  # O: np.load says why objects are refused
            raise NpzError(
                f"{file}: {part}_y is {labels.dtype} {labels.shape}; integers of shape (N,) are needed"
            )
        if images.shape[0] != labels.shape[0]:
            raise NpzError(
                f"{file}: {part}_x has {images.shape[0]} images, {part}_y has {labels.shape[0]} labels"
            )
    names = headers.get("names")
    if names and (len(names.shape) != 1 or names.shape[0] > train.shape[0] or names.num_bytes > CHUNK_BYTES):
        raise NpzError(
            f"{file}: names is {names.dtype} {names.shape}; a text for each class is needed, and"
            f" {train.shape[0]} training images allow at most as many classes"
        )


def _check_images(header: NpyHeader, key: str, file: Path) -> None:
    shape, dtype = header.shape, header.dtype
    told = f"{file}: {key} is {dtype} {shape}; {PIXELS}"
    is_known = dtype.kind in "fb" or (dtype.kind == "u" and dtype.itemsize <= 2)
    if len(shape) == 4 and shape[3] not in CHANNELS and shape[1] in CHANNELS:
        raise NpzError(f"{told}: channels come last, as in np.moveaxis({key}, 1, -1)")
    if len(shape) not in (3, 4) or 0 in shape[1:] or not {*shape[3:]} <= {*CHANNELS} or not is_known:
        raise NpzError(told)
    if header.is_fortran:
        raise NpzError(f"{told}, in C order, as np.ascontiguousarray({key}) is")
    if shape[0] > MOST_IMAGES:
        raise NpzError(f"{file}: {key} has {shape[0]} images; at most {MOST_IMAGES} are read")
    check_dimensions(shape[1], shape[2])


def _labels(array: NDArray[np.generic], num_train: int, key: str, file: Path) -> NDArray[np.int64]:
    if len(array) and not 0 <= (worst := _worst(array)) < num_train:
        raise NpzError(
            f"{file}: a label in {key} is {worst}; {num_train} training images allow 0 to {num_train - 1}"
        )
    return array.astype(np.int64)


def _worst(array: NDArray[np.generic]) -> int:
    low, high = int(array.min()), int(array.max())
    return low if low < 0 else high


def _range(file: Path, header: NpyHeader) -> tuple[float, float]:
    """Return the least and the largest value of all images, where the rule depends on them; NaN if one is."""
    if header.dtype.kind == "b" or header.dtype == np.uint8:
        return 0.0, 255.0
    ends = [(float(chunk.min()), float(chunk.max())) for chunk in _chunks(file)]
    lows, highs = zip(*ends, strict=True) if ends else ((0.0,), (0.0,))
    return float(np.min(lows)), float(np.max(highs))


def _chunks(file: Path) -> Iterator[NDArray[np.generic]]:
    """Yield the training images, then the test images, as they are in the file."""
    try:
        with zipfile.ZipFile(file) as archive:
            headers = npz_headers(archive, IMAGES)
            for key in IMAGES:
                with archive.open(f"{key}.npy") as stream:
                    stream.read(headers[key].offset)
                    yield from _images(stream, headers[key])
    except DAMAGE as error:
        raise _unreadable(file, error) from error


def _images(stream: IO[bytes], header: NpyHeader) -> Iterator[NDArray[np.generic]]:
    image_bytes = math.prod(header.shape[1:]) * header.dtype.itemsize
    per_chunk = max(1, CHUNK_BYTES // image_bytes)
    for start in range(0, header.shape[0], per_chunk):
        count = min(per_chunk, header.shape[0] - start)
        content = stream.read(count * image_bytes)
        # ValueError where it ends early
        yield np.frombuffer(content, header.dtype).reshape(count, *header.shape[1:])


def _note(header: NpyHeader, high: float) -> list[str]:
    if header.dtype.kind == "u" and header.dtype.itemsize == 2:
        return [f"images of 16 bits (the upper 8 are read): the brightest value is {high:g} of 65535"]
    return []


def _unreadable(file: Path, error: Exception) -> NpzError:
    return NpzError(f"cannot read {file} as .npz: {first_line(error) if str(error) else 'it ends early'}")
