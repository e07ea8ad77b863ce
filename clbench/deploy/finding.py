"""Find the pictures in files and folders that are named, and the classes that class folders say they show.

A folder is walked as a stream does it: images anywhere below, in the order of their names. If folders in it
are called as classes of the learner, what lies in each shows that class; so it is where the class folders
lie in its test part, and then that part alone is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clbench.data.decode import EXTENSIONS
from clbench.data.folders import part_among
from clbench.data.scanning import Scan
from clbench.errors import UserError


class NoPicturesError(UserError, FileNotFoundError):
    """Something named that is no picture and holds none."""


@dataclass
class Found:
    """The pictures that were found, in order."""

    files: list[Path] = field(default_factory=list)
    classes: list[str | None] = field(default_factory=list)  # of each file: what its class folder says
    folders: list[Path] = field(default_factory=list)  # that hold class folders
    known: set[str] = field(default_factory=set)  # class folders of classes that can be predicted
    unknown: dict[str, int] = field(default_factory=dict)  # others beside them: the pictures in each
    notes: list[str] = field(default_factory=list)  # what lies there and is not taken

    def add(self, files: Sequence[Path], its_class: str | None = None) -> None:
        """Add pictures of one class, or of none that is known."""
        self.files += files
        self.classes += [its_class] * len(files)


def check_named(paths: Sequence[Path]) -> None:
    """Raise NoPicturesError for a path that there is not."""
    for path in paths:
        if not path.exists():
            raise NoPicturesError(f"no picture or folder {path}")


def find_pictures(paths: Sequence[Path], class_names: Sequence[str]) -> Found:
    """Return the pictures; NoPicturesError where there is none. A file is taken whatever its ending."""
    check_named(paths)
    found = Found()
    for path in paths:
        if path.is_dir():
            _walk(path, set(class_names), found)
        else:
            found.add([path])
    return found


def _walk(root: Path, class_names: set[str], found: Found) -> None:
    scan = Scan()
    top, folders = _class_folders(root, class_names)
    pictures = scan.images(top)
    linked = [folder for folder in Scan().subfolders(top) if folder.is_symlink()]  # as a stream's may be
    scan.counts["link"] -= len(linked)
    pictures = sorted([*pictures, *(picture for folder in linked for picture in scan.images(folder))])
    if not pictures:
        told = f"; not read there: {scan.told()}" if scan.told() else ""
        raise NoPicturesError(f"no picture in {top} (endings: {', '.join(sorted(EXTENSIONS))}{told})")
    found.notes += scan.notes(top)
    if top != root:
        found.notes.append(f"of {root} the pictures in {top.name}/ are taken")
    if not folders:
        found.add(pictures)
        return
    found.folders.append(top)
    for picture in pictures:
        name = picture.relative_to(top).parts[0]
        if name in folders:
            found.known.add(name)
        elif picture.parent != top:
            found.unknown[name] = found.unknown.get(name, 0) + 1
        found.add([picture], name if name in folders else None)


def _class_folders(root: Path, class_names: set[str]) -> tuple[Path, set[str]]:
    """Return the folder that class folders lie in, and those of them that are called as classes are."""
    below = Scan().subfolders(root)
    known = {folder.name for folder in below} & class_names
    test = part_among(below, "test")
    if known or test is None:
        return root, known
    of_test = {folder.name for folder in Scan().subfolders(test)} & class_names
    return (test, of_test) if of_test else (root, set())
