"""List trees of class folders: which image files are in which class, and which part they belong to.

Parts are folders called ``train`` or ``training``, ``test`` or ``testing``, ``val``, ``valid`` or
``validation``, in any case. A validation folder serves as the test part where there is no test folder, and
is left alone otherwise. Where there is only one part, or none and the class folders lie at the top, every
class is split 80/20, always in the same way. Images lie in a class folder or anywhere below it. What is
passed over (files that are no images by their extension, hidden ones, links to folders below a class folder,
what is no file at all) is counted, for the run's header.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from clbench.data.listings import (
    ChoiceError,
    FolderError,
    Labelled,
    Listing,
    join_domains,
    read_rows,
    split_classes,
)
from clbench.data.scanning import Scan

PARTS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}


def list_folder(root: Path) -> Listing:
    """List a tree of class folders, with or without folders for the parts."""
    scan = Scan()
    return replace(_list_tree(root, scan), notes=scan.notes(root))


def list_domains(root: Path) -> Listing:
    """List a tree with a folder for each domain, which is a tree of class folders in its turn."""
    scan = Scan()
    domains = _subfolders(root, scan)
    if not domains:
        raise FolderError(f"{root} holds no domain folders (expected: {root}/<domain>/<class>/<image>)")
    found = {folder.name: _list_tree(folder, scan) for folder in domains}
    names = sorted({name for listing in found.values() for name in listing.class_names})
    joined = join_domains({name: _renumbered(listing, names) for name, listing in found.items()}, names)
    return replace(joined, notes=scan.notes(root))


def lister(test_list: str) -> Callable[[Path], Listing]:
    """Return how to list class folders whose test images a text file names, where there is one."""
    return partial(_list_tested, test_list=test_list) if test_list else list_folder


def list_classes(root: Path, names: Sequence[str], scan: Scan | None = None) -> Labelled:
    """Return the images of these class folders, sorted; FolderError names a class without one.

    What is passed over is counted in ``scan``.
    """
    files: Labelled = []
    for label, name in enumerate(names):
        own = Scan()
        of_class = own.images(root / name) if (root / name).is_dir() else []
        if not of_class:
            instead = f" (not read there: {own.told()})" if own.told() else ""
            raise FolderError(f"class folder {root / name} is empty: it holds no image{instead}")
        if scan:
            scan.add(own)
        files += [(file, label) for file in of_class]
    return files


def part_among(folders: Sequence[Path], part: str) -> Path | None:
    """Return the folder that holds a part, "train" or "test"; None if there is none."""
    by_name = {folder.name.lower(): folder for folder in folders}
    return next((by_name[name] for name in PARTS[part] if name in by_name), None)


def _list_tree(root: Path, scan: Scan) -> Listing:
    folders = _subfolders(root, scan)
    train, test = (part_among(folders, part) for part in ("train", "test"))
    if test is not None and train is None:
        raise FolderError(f"{root} has {test.name}/ but no train/ beside it")
    top = train or root
    of_classes = _subfolders(top, scan) if train else folders
    names = [folder.name for folder in of_classes]
    if not names:
        raise FolderError(f"{top} holds no class folders (expected: {top}/<class>/<image>)")
    if train:
        scan.pass_over(folder for folder in folders if folder not in (train, test))
    if test is None:
        return split_classes(list_classes(top, names, scan), names)
    unknown = sorted({folder.name for folder in _subfolders(test, scan)} - set(names))
    if unknown:
        raise FolderError(f"class {unknown[0]!r} is in {test} but not in {top}")
    return Listing(list_classes(top, names, scan), list_classes(test, names, scan), names)


def _list_tested(root: Path, test_list: str) -> Listing:
    """List class folders, of which a text file names the test images: ``<class>/<file>`` starts its lines."""
    scan = Scan()
    try:
        rows = read_rows(Path(test_list).expanduser())
    except FolderError as error:
        raise ChoiceError(f"stream.test_list: {error}") from error
    named = {tuple(Path(words[0]).parts[-2:]) for words in rows}
    names = [folder.name for folder in _subfolders(root, scan)]
    train: Labelled = []
    test: Labelled = []
    for file, label in list_classes(root, names, scan):
        (test if file.parts[-2:] in named else train).append((file, label))
    if len(test) != len(named):
        missing = sorted(named - {file.parts[-2:] for file, _ in test})[0]
        raise ChoiceError(f"stream.test_list: {test_list} names {'/'.join(missing)}, not in {root}")
    return Listing(train, test, names, notes=scan.notes(root))


def _renumbered(listing: Listing, names: list[str]) -> Listing:
    """Return a listing with the class numbers that its classes have among these names."""
    number = [names.index(name) for name in listing.class_names]
    train, test = ([(file, number[label]) for file, label in part] for part in (listing.train, listing.test))
    return Listing(train, test, names)


def _subfolders(root: Path, scan: Scan) -> list[Path]:
    if not root.is_dir():
        raise FolderError(f"no folder {root}")
    return scan.subfolders(root)
