"""Read the collections that torchvision holds in memory: CIFAR, MNIST and the like.

torchvision unpickles CIFAR only if its checksums are right; nothing else here is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clbench.data.cache import Decoding, cached
from clbench.data.decode import fit
from clbench.data.sources import Layout, find, listed
from clbench.data.tasks import Places, Source
from clbench.outside.foreign import regular

CHUNK = 4096  # images


class Pictures(Protocol):
    """A data set whose items are pictures with class numbers."""

    def __len__(self) -> int:
        """Return the number of items."""

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        """Return one picture and its class number."""


class Named(Pictures, Protocol):
    """One that knows its classes."""

    classes: list[str]
    targets: Sequence[int]  # the class number of each item


Opened = tuple[Pictures, Pictures, list[str]]  # training part, test part, names of the classes
Open = Callable[..., Opened]  # open(root, download=False)


def train_and_test(kind: Callable[..., Named]) -> Open:
    """Return how to open a class of torchvision's that takes ``train`` and has ``classes``."""

    def open_set(root: str, download: bool = False) -> Opened:
        train, test = (kind(root, train=is_train, download=download) for is_train in (True, False))
        for part in (train, test):
            if len(part) != len(part.targets):
                raise ValueError(f"{len(part)} images, {len(part.targets)} labels")
        return train, test, list(train.classes)

    return open_set


def find_held(name: str, places: Places, place: str, open_set: Open, *, files: str = "") -> Source:
    """Find a collection as ``.npz``, class folders or torchvision's layout, or download it.

    That layout is known by ``place``, in a data folder; ``files`` is a glob of all that is read of it.
    """
    return find(
        name,
        places,
        listed(name),
        _held(place, open_set, files or f"{place}/*"),
        download=partial(open_set, download=True),
    )


def _held(place: str, open_set: Open, files: str) -> Layout:
    def read(name: str, root: Path, cache_dir: Path) -> Source:
        found = sorted(root.glob(files))
        stats = [(file.name, file.stat() if file.is_dir() else regular(file)) for file in found]
        marks = [f"{file} {status.st_size} {status.st_mtime_ns}" for file, status in stats]
        fingerprint = f"torchvision {root} {marks}"
        decode = partial(_decoding, open_set, root)
        return cached(name, cache_dir=cache_dir, fingerprint=fingerprint, decode=decode)

    return Layout(place, place if Path(place).suffix else f"{place}/", read)


def _decoding(open_set: Open, root: Path) -> Decoding:
    train, test, names = open_set(str(root))
    picture, _ = train[0]
    return Decoding(
        height=picture.height,
        width=picture.width,
        train_labels=_labels(train, len(names)),
        test_labels=_labels(test, len(names)),
        class_names=names,
        chunks=(chunk for part in (train, test) for chunk in _chunks(part)),
    )


def _labels(part: Pictures, num_classes: int) -> NDArray[np.int64]:
    labels = np.array([part[index][1] for index in range(len(part))], dtype=np.int64)
    for label in np.unique(labels).tolist():
        if not 0 <= label < num_classes:
            raise ValueError(f"a label is {label}; there are {num_classes} classes")
    return labels


def _chunks(part: Pictures) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures as RGB, all of the first one's size."""
    size = (part[0][0].height, part[0][0].width)
    for start in range(0, len(part), CHUNK):
        indices = range(start, min(start + CHUNK, len(part)))
        yield np.stack([fit(part[index][0], size) for index in indices])
