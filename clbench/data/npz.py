"""Read a collection from an ``.npz`` file, unpacking a chunk of images at a time.

Keys: ``train_x``, ``test_x`` (N, H, W, 3) or (N, H, W), uint8; ``train_y``, ``test_y`` (N,) integers from 0;
``names`` (C,) text, optional. Nothing in the file is ever unpickled.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from clbench.data.cache import Decoding, cached
from clbench.data.tasks import Source
from clbench.errors import UserError

KEYS = ("train_x", "train_y", "test_x", "test_y")
CHUNK_BYTES = 1 << 22
UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


class NpzError(UserError):
    """A file that is no collection of images."""


def read_npz(file: Path, *, cache_dir: Path) -> Source:
    """Return the collection in an ``.npz`` file, decoded in the cache."""
    try:
        status = file.stat()
    except OSError as error:
        raise NpzError(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from error
    fingerprint = f"npz {file.resolve()} {status.st_size} {status.st_mtime_ns}"
    return cached(file.stem, cache_dir=cache_dir, fingerprint=fingerprint, decode=lambda: _decoding(file))


def _decoding(file: Path) -> Decoding:
    try:
        with zipfile.ZipFile(file) as archive:
            missing = [key for key in KEYS if f"{key}.npy" not in archive.namelist()]
            if missing:
                needed = f"needed: {', '.join(KEYS)}; optional: names"
                raise NpzError(f"{file} has no {', '.join(missing)} ({needed})")
            shapes = {key: _image_shape(archive, key, file) for key in ("train_x", "test_x")}
        with np.load(file, allow_pickle=False) as arrays:
            labels = {key: _labels(arrays[key], key, file) for key in ("train_y", "test_y")}
            names = [str(name) for name in arrays["names"]] if "names" in arrays.files else []
    except UNREADABLE as error:
        raise _unreadable(file, error) from error
    for part in ("train", "test"):
        num_images, num_labels = shapes[f"{part}_x"][0], len(labels[f"{part}_y"])
        if num_images != num_labels:
            raise NpzError(f"{file}: {part}_x has {num_images} images, {part}_y has {num_labels} labels")
    if shapes["train_x"][1:3] != shapes["test_x"][1:3]:
        raise NpzError(f"{file}: train_x and test_x differ in image size")
    if not names:
        largest = max((int(array.max()) for array in labels.values() if len(array)), default=-1)
        names = [str(number) for number in range(largest + 1)]
    return Decoding(
        height=shapes["train_x"][1],
        width=shapes["train_x"][2],
        train_labels=labels["train_y"],
        test_labels=labels["test_y"],
        class_names=names,
        chunks=_chunks(file),
    )


def _labels(array: NDArray[np.generic], key: str, file: Path) -> NDArray[np.int64]:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise NpzError(f"{file}: {key} is {array.dtype} {array.shape}; integers of shape (N,) are needed")
    return array.astype(np.int64)


def _image_shape(archive: zipfile.ZipFile, key: str, file: Path) -> tuple[int, ...]:
    with archive.open(f"{key}.npy") as stream:
        shape, is_fortran, dtype = _header(cast(BinaryIO, stream))
    is_image = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
    if dtype != np.uint8 or not is_image or is_fortran or 0 in shape[1:]:
        raise NpzError(
            f"{file}: {key} is {dtype} {shape}; uint8 of shape (N, H, W, 3) or (N, H, W) is needed"
            + (", in C order" if is_fortran else "")
        )
    return shape


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Read an npy header, which is data: nothing in it is executed."""
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(stream)
    if version not in read:
        raise ValueError(f"npy version {version}")
    return read[version](stream)


def _chunks(file: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the training images, then the test images, as (n, H, W, 3)."""
    try:
        with zipfile.ZipFile(file) as archive:
            for key in ("train_x", "test_x"):
                with archive.open(f"{key}.npy") as stream:
                    shape, _, _ = _header(cast(BinaryIO, stream))
                    yield from _images(cast(BinaryIO, stream), shape)
    except UNREADABLE as error:
        raise _unreadable(file, error) from error


def _images(stream: BinaryIO, shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    image_bytes = math.prod(shape[1:])
    per_chunk = max(1, CHUNK_BYTES // image_bytes)
    for start in range(0, shape[0], per_chunk):
        count = min(per_chunk, shape[0] - start)
        content = stream.read(count * image_bytes)
        chunk = np.frombuffer(content, np.uint8).reshape(count, *shape[1:])  # ValueError where it ends early
        yield chunk if chunk.ndim == 4 else np.repeat(chunk[..., None], 3, axis=-1)


def _unreadable(file: Path, error: Exception) -> NpzError:
    return NpzError(
        f"cannot read {file} as .npz: {str(error).splitlines()[0] if str(error) else 'it ends early'}"
    )
