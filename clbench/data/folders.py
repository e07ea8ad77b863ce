"""List trees of class folders: which image files are in which class, and which part they belong to.

Parts are folders called ``train`` or ``training``, ``test`` or ``testing``, ``val``, ``valid`` or
``validation``. A validation folder serves as the test part where there is no test folder, and is left alone
otherwise. Where there is only one part, or none and the class folders lie at the top, every class is split
80/20, always in the same way. Files that are no images by their extension, and hidden ones, are passed over.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clbench.data.cache import Decoding, cached
from clbench.data.decode import EXTENSIONS, common_size, decode_files
from clbench.errors import UserError
from clbench.streams import Source

PARTS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
TEST_RATE = 0.2
Labelled = list[tuple[Path, int]]


class FolderError(UserError):
    """A folder that is no tree of class folders."""


@dataclass(frozen=True)
class Listing:
    """Image files with their class numbers."""

    train: Labelled
    test: Labelled
    class_names: list[str]


def list_folder(root: Path) -> Listing:
    """List a tree of class folders, with or without folders for the parts."""
    if not root.is_dir():
        raise FolderError(f"no folder {root}")
    train, test = (_first_folder(root, PARTS[part]) for part in ("train", "test"))
    if test is not None and train is None:
        raise FolderError(f"{root} has {test.name}/ but no train/ beside it")
    top = train or root
    names = [folder.name for folder in _subfolders(top)]
    if not names:
        raise FolderError(f"{top} holds no class folders (expected: {top}/<class>/<image>)")
    if test is None:
        return split_classes(list_classes(top, names), names)
    unknown = sorted({folder.name for folder in _subfolders(test)} - set(names))
    if unknown:
        raise FolderError(f"class {unknown[0]!r} is in {test} but not in {top}")
    return Listing(list_classes(top, names), list_classes(test, names), names)


def list_classes(root: Path, names: Sequence[str]) -> Labelled:
    """Return the images of these class folders, sorted; FolderError names a class without one."""
    files: Labelled = []
    for label, name in enumerate(names):
        of_class = sorted(_images(root / name))
        if not of_class:
            raise FolderError(f"class folder {root / name} is empty: it holds no image")
        files += [(file, label) for file in of_class]
    return files


def split_classes(files: Labelled, names: list[str]) -> Listing:
    """Take a fifth of each class, at least one image, as the test part; the draw is always the same."""
    labels = np.array([label for _, label in files])
    is_test = np.zeros(len(files), dtype=np.bool_)
    for label, name in enumerate(names):
        places = np.flatnonzero(labels == label)
        if len(places) < 2:
            raise FolderError(f"class {name!r} has one image; two are needed to train and test on it")
        count = max(1, round(TEST_RATE * len(places)))
        is_test[np.random.default_rng(label).permutation(places)[:count]] = True
    return Listing(
        [file for file, test in zip(files, is_test, strict=True) if not test],
        [file for file, test in zip(files, is_test, strict=True) if test],
        names,
    )


def read_listing(listing: Listing, name: str, *, cache_dir: Path, stored_size: int) -> Source:
    """Return the listed images, decoded in the cache."""
    files = [file for file, _ in (*listing.train, *listing.test)]

    def decode() -> Decoding:
        size = common_size(files, stored_size)
        return Decoding(
            height=size[0],
            width=size[1],
            train_labels=np.array([label for _, label in listing.train]),
            test_labels=np.array([label for _, label in listing.test]),
            class_names=listing.class_names,
            chunks=decode_files(files, size),
        )

    fingerprint = f"files {stored_size} {_digest(listing)}"
    return cached(name, cache_dir=cache_dir, fingerprint=fingerprint, decode=decode)


def _digest(listing: Listing) -> str:
    total = hashlib.sha256(repr(listing.class_names).encode())
    for part in (listing.train, listing.test):
        total.update(b"part")
        for file, label in part:
            status = file.stat()
            total.update(f"{file.resolve()} {label} {status.st_size} {status.st_mtime_ns}\n".encode())
    return total.hexdigest()


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _subfolders(root: Path) -> list[Path]:
    try:
        folders = [entry for entry in root.iterdir() if entry.is_dir()]
    except OSError as error:
        raise FolderError(f"cannot read {root}: {(error.strerror or str(error)).lower()}") from error
    return sorted(folder for folder in folders if not folder.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    """Yield the images in a folder and those below it."""
    for place, below, files in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        for file in files:
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in EXTENSIONS:
                yield Path(place, file)
