"""Keep a collection decoded: one memory-mapped uint8 array, made once and checked at each opening.

An entry is a folder with ``images.npy`` (training rows first, then test rows), ``labels.npy`` and
``about.json``, which holds the checksums. It is written a chunk at a time under a temporary name and renamed
when it is whole, so that a killed run leaves no entry. Where it cannot be written, as on a full disk, images
are decoded into memory, and that is said.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from clbench.data.samples import Samples
from clbench.data.tasks import Source
from clbench.errors import UserError
from clbench.files import WriteError, temporary_folder, write_text
from clbench.outside.foreign import DAMAGE
from clbench.outside.reading import RecordError, read_json, told_in_one_line

LAYOUT = 1  # changes when an entry is laid out in another way
READ_BYTES = 1 << 22
FILES = ("images.npy", "labels.npy")

log = logging.getLogger(__name__)


class CacheError(UserError, OSError):
    """A cache folder that decoded images cannot be kept in."""


@dataclass(frozen=True)
class Decoding:
    """What the images of a collection will be, and how to get them, a chunk at a time."""

    height: int
    width: int
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]
    class_names: list[str]
    chunks: Iterable[NDArray[np.uint8]]  # (n, H, W, 3) each: all training images, then all test images
    tasks: list[list[int]] | None = None
    rules: int = 0  # of the rules by which the images were read, where it is not always by the same
    notes: Callable[[], list[str]] = list  # what a user should know of the images, once they are all read


def cached(
    name: str,
    *,
    cache_dir: Path,
    fingerprint: str,
    decode: Callable[[], Decoding],
    rules: int = 0,
    touched: Callable[[], bool] = lambda: True,
) -> Source:
    """Return the collection from the cache; decode it first where the cache lacks it or is damaged.

    ``fingerprint`` is a text that changes when the collection does. An entry that was made by other ``rules``
    is kept if none of its images is ``touched`` by what has changed since, which is asked once.
    """
    digest = hashlib.sha256(f"{LAYOUT}\n{fingerprint}".encode()).hexdigest()[:16]
    entry = cache_dir / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}-{digest}"
    source = _open(entry) if _is_current(entry, rules, touched) else None
    if source is not None:
        return source
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with temporary_folder(entry) as folder:
            _write(folder, decode())
            _put_in_place(folder, entry)
    except OSError as error:
        if isinstance(error, UserError) and not isinstance(error, WriteError):  # about the images
            raise
        return _in_memory(decode(), cache_dir, (error.strerror or str(error)).lower())
    source = _open(entry)
    if source is None:
        raise CacheError(f"decoded images in {entry} were not read back as written; is the disk sound?")
    return source


def _is_current(entry: Path, rules: int, touched: Callable[[], bool]) -> bool:
    """Whether an entry holds what the rules of today would make; one that does not is removed."""
    try:
        about = read_json(entry / "about.json")
        if about.get("rules", 0) == rules:
            return True
        if not touched():
            with suppress(OSError):  # where the cache cannot be written, the next run asks again
                _write_about(entry, {**about, "rules": rules}, about["checksums"])
            return True
    except RecordError:
        return False
    except UserError:
        raise
    except DAMAGE:
        return False
    log.warning("the images in %s were read by rules that have changed, and are read again", entry)
    shutil.rmtree(entry, ignore_errors=True)
    return False


def _in_memory(decoding: Decoding, cache_dir: Path, reason: str) -> Source:
    """Decode the images without keeping them; CacheError where they do not fit into memory."""
    import psutil

    labels = np.concatenate([decoding.train_labels, decoding.test_labels]).astype(np.int64)
    shape = (len(labels), decoding.height, decoding.width, 3)
    cannot = f"cannot keep decoded images in {cache_dir}: {reason}; free space there or make it writable"
    if math.prod(shape) > psutil.virtual_memory().available:
        raise CacheError(f"{cannot}: they are too many for the memory")
    log.warning("%s; until then they are decoded for each run", cannot)
    images = np.empty(shape, np.uint8)
    count = 0
    for chunk in _checked(decoding.chunks, shape):
        images[count : count + len(chunk)] = chunk
        count += len(chunk)
    images.flags.writeable = False
    source = as_source(images, labels, len(decoding.train_labels), decoding.class_names, decoding.tasks)
    return replace(source, notes=tuple(decoding.notes()))


def _open(entry: Path) -> Source | None:
    """Return what an entry holds, or None if there is none or it is not what was written."""
    if not entry.exists():
        return None
    try:
        with told_in_one_line(entry):
            about = read_json(entry / "about.json")
            found = {**{file: _checksum(entry / file) for file in FILES}, "about": _checksum_of(about)}
            if {"about": found["about"], **about["checksums"]} != found:  # earlier ones had none of their own
                raise ValueError("it contradicts its checksums")
            images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
            labels = np.load(entry / "labels.npy", allow_pickle=False)
            source = as_source(images, labels, about["num_train"], about["class_names"], about["tasks"])
            return replace(source, notes=tuple(about.get("notes", ())))
    except RecordError:
        log.warning("the decoded images in %s are damaged and are made again", entry)
        return None


def as_source(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    num_train: int,
    class_names: list[str],
    tasks: list[list[int]] | None = None,
) -> Source:
    """Return a collection whose training images are the first rows of the array."""
    rows = np.arange(len(labels))
    whole = Samples(images, rows, labels.astype(np.int64))
    return Source(whole.select(rows < num_train), whole.select(rows >= num_train), class_names, tasks)


def _write(folder: Path, decoding: Decoding) -> None:
    labels = np.concatenate([decoding.train_labels, decoding.test_labels]).astype(np.int64)
    shape = (len(labels), decoding.height, decoding.width, 3)
    _check_space(folder, math.prod(shape))
    with open(folder / "images.npy", "wb") as file:
        _write_images(file, shape, decoding.chunks)
        _flush(file)
    with open(folder / "labels.npy", "wb") as file:
        np.save(file, labels, allow_pickle=False)
        _flush(file)
    about: dict[str, Any] = {
        "num_train": len(decoding.train_labels),
        "class_names": decoding.class_names,
        "tasks": decoding.tasks,
        "rules": decoding.rules,
        "notes": decoding.notes(),
    }
    _write_about(folder, about, {file: _checksum(folder / file) for file in FILES})


def _write_about(folder: Path, about: dict[str, Any], checksums: dict[str, int]) -> None:
    """Write what an entry says of itself; ``checksums`` are those of its other files."""
    files = {file: checksums[file] for file in FILES}
    about = {**about, "checksums": {**files, "about": _checksum_of(about)}}
    write_text(folder / "about.json", json.dumps(about))


def _check_space(folder: Path, num_bytes: int) -> None:
    """Raise CacheError before a disk is filled in vain."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise CacheError(
            f"cannot keep decoded images in {folder.parent}: they take {num_bytes / 2**30:.1f} GiB and"
            f" {free / 2**30:.1f} GiB are free; free space there, or keep them smaller (stream.stored_size)"
        )


def _write_images(file: BinaryIO, shape: tuple[int, ...], chunks: Iterable[NDArray[np.uint8]]) -> None:
    """Write an npy file chunk by chunk, not through a memory map: a full disk would end the process."""
    header = {"descr": npy.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, header)
    for chunk in _checked(chunks, shape):
        file.write(np.ascontiguousarray(chunk).data)


def _checked(chunks: Iterable[NDArray[np.uint8]], shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    """Give the chunks of an array of such a shape, and refuse others."""
    count = 0
    for chunk in chunks:
        if chunk.dtype != np.uint8 or chunk.shape[1:] != shape[1:] or count + len(chunk) > shape[0]:
            raise ValueError(f"a chunk of {chunk.dtype} {chunk.shape} does not fit {shape}")
        yield chunk
        count += len(chunk)
    if count != shape[0]:
        raise ValueError(f"{count} images for {shape[0]} labels")


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _put_in_place(folder: Path, entry: Path) -> None:
    """Rename a whole entry to its name; remove a damaged one, keep a sound one that another run has made."""
    if entry.exists() and _open(entry) is None:
        shutil.rmtree(entry)
    if not entry.exists():
        os.replace(folder, entry)


def _checksum(path: Path) -> int:
    total = 0
    for piece in _pieces(path):
        total = zlib.crc32(piece, total)
    return total


def _checksum_of(about: dict[str, Any]) -> int:
    """Return the checksum of what ``about.json`` holds beside checksums."""
    told = [about["num_train"], about["class_names"], about["tasks"]]
    told += [about.get("rules", 0), about.get("notes", [])]
    return zlib.crc32(json.dumps(told).encode())


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(READ_BYTES):
            yield piece
