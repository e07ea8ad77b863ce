"""List trees of class folders: which image files are in which class, and which part they belong to.

Parts are folders called ``train`` or ``training``, ``test`` or ``testing``, ``val``, ``valid`` or
``validation``, in any case. A validation folder serves as the test part where there is no test folder, and
is left alone otherwise. Where there is only one part, or none and the class folders lie at the top, every
class is split 80/20, always in the same way. Files that are no images by their extension, and hidden ones,
are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from clbench.data.decode import EXTENSIONS
from clbench.data.listings import FolderError, Labelled, Listing, join_domains, read_rows, split_classes

PARTS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}


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


def list_domains(root: Path) -> Listing:
    """List a tree with a folder for each domain, which is a tree of class folders in its turn."""
    if not root.is_dir():
        raise FolderError(f"no folder {root}")
    domains = _subfolders(root)
    if not domains:
        raise FolderError(f"{root} holds no domain folders (expected: {root}/<domain>/<class>/<image>)")
    found = {folder.name: list_folder(folder) for folder in domains}
    names = sorted({name for listing in found.values() for name in listing.class_names})
    return join_domains({name: _renumbered(listing, names) for name, listing in found.items()}, names)


def lister(test_list: str) -> Callable[[Path], Listing]:
    """Return how to list class folders whose test images a text file names, where there is one."""
    return partial(_list_tested, test_list=test_list) if test_list else list_folder


def list_classes(root: Path, names: Sequence[str]) -> Labelled:
    """Return the images of these class folders, sorted; FolderError names a class without one."""
    files: Labelled = []
    for label, name in enumerate(names):
        of_class = sorted(_images(root / name))
        if not of_class:
            raise FolderError(f"class folder {root / name} is empty: it holds no image")
        files += [(file, label) for file in of_class]
    return files


def _list_tested(root: Path, test_list: str) -> Listing:
    """List class folders, of which a text file names the test images: ``<class>/<file>`` starts its lines."""
    named = {tuple(Path(words[0]).parts[-2:]) for words in read_rows(Path(test_list).expanduser())}
    names = [folder.name for folder in _subfolders(root)]
    train: Labelled = []
    test: Labelled = []
    for file, label in list_classes(root, names):
        (test if file.parts[-2:] in named else train).append((file, label))
    if len(test) != len(named):
        missing = sorted(named - {file.parts[-2:] for file, _ in test})[0]
        raise FolderError(f"stream.test_list: {test_list} names {'/'.join(missing)}, not in {root}")
    return Listing(train, test, names)


def _renumbered(listing: Listing, names: list[str]) -> Listing:
    """Return a listing with the class numbers that its classes have among these names."""
    number = [names.index(name) for name in listing.class_names]
    train, test = ([(file, number[label]) for file, label in part] for part in (listing.train, listing.test))
    return Listing(train, test, names)


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    folders = {folder.name.lower(): folder for folder in _subfolders(root)}
    return next((folders[name] for name in names if name in folders), None)


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
