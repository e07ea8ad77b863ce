"""Find a named collection: as ``.npz``, as class folders, in torchvision's layout, or by downloading it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10

from clbench.data.cache import Decoding, cached
from clbench.data.folders import Listing, list_folder, read_listing
from clbench.data.npz import read_npz
from clbench.streams import DataNotFoundError, Places, Source

DOWNLOAD_TIMEOUT = 5  # seconds without an answer
CHUNK = 4096  # images


def find(
    name: str,
    places: Places,
    *,
    folders: tuple[str, ...],
    list_images: Callable[[Path], Listing] = list_folder,
    stored_size: int = 0,
    torchvision_set: type[CIFAR10] | None = None,
) -> Source:
    """Return the collection from the first place that has it; DataNotFoundError says where that was tried.

    The order is ``<name>.npz``, class folders under one of the names ``folders``, and, where torchvision
    has the set, its own layout in the data folder, an earlier download, a new download.
    """
    root = places.data_dir.resolve() if places.data_dir else None
    if root and not root.is_dir():
        raise DataNotFoundError(f"--data-dir {places.data_dir}: no such folder")
    if root and (file := root / f"{name}.npz").is_file():
        return read_npz(file, cache_dir=places.cache_dir)
    for folder in folders:
        if root and (root / folder).is_dir():
            listing = list_images(root / folder)
            return read_listing(listing, name, cache_dir=places.cache_dir, stored_size=stored_size)
    wanted = [f"{name}.npz", *(f"{folder}/train/<class>/" for folder in folders)]
    where = f"in {root}" if root else "(no --data-dir given)"
    if torchvision_set is None:
        raise DataNotFoundError(
            f"{name} not found: looked for {', '.join(wanted)} {where}; name its folder with --data-dir,"
            " or try --stream split-digits"
        )
    wanted.append(f"{torchvision_set.base_folder}/")
    downloads = places.cache_dir / "downloads"
    for place in (root, downloads):
        if place and (place / torchvision_set.base_folder).is_dir():
            return _read_torchvision(name, torchvision_set, place, places.cache_dir)
    try:
        with patience(DOWNLOAD_TIMEOUT):
            torchvision_set(str(downloads), train=True, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataNotFoundError(
            f"{name} not found: looked for {', '.join(wanted)} {where}, and the download failed"
            f" ({str(error).splitlines()[0]}); name its folder with --data-dir, or try --stream split-digits"
        ) from error
    return _read_torchvision(name, torchvision_set, downloads, places.cache_dir)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let a network connection wait at most so long for an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read_torchvision(name: str, torchvision_set: type[CIFAR10], root: Path, cache_dir: Path) -> Source:
    """Return a CIFAR in torchvision's layout, which torchvision unpickles only if its checksums are right."""
    files = sorted((root / torchvision_set.base_folder).iterdir())
    marks = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]

    def decode() -> Decoding:
        try:
            train, test = (torchvision_set(str(root), train=part) for part in (True, False))
        except (RuntimeError, OSError) as error:
            place = root / torchvision_set.base_folder
            raise DataNotFoundError(
                f"{name}: {place} is incomplete or damaged; remove it to have it downloaded again"
            ) from error
        return Decoding(
            height=train.data.shape[1],
            width=train.data.shape[2],
            train_labels=np.array(train.targets),
            test_labels=np.array(test.targets),
            class_names=list(train.classes),
            chunks=(piece for part in (train, test) for piece in _pieces(part.data)),
        )

    return cached(name, cache_dir=cache_dir, fingerprint=f"torchvision {root} {marks}", decode=decode)


def _pieces(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images), CHUNK):
        yield images[start : start + CHUNK]
