"""Look through a tree of class folders: which images are in it, and how much lies there that is not read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from clbench.data.decode import EXTENSIONS
from clbench.data.listings import FolderError
from clbench.outside.foreign import first_line

NAMED = 5  # endings or folders that are named


class Scan:
    """Lists folders and images, and counts what it passes over.

    Links to files and to class folders are followed, others are not: one may lead to nowhere or in a circle.
    """

    def __init__(self) -> None:
        """Begin to count."""
        self.counts: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()
        self.folders: list[str] = []  # that stand beside those of the parts

    def subfolders(self, root: Path) -> list[Path]:
        """Return the folders in a folder, sorted; count what else lies there."""
        folders = []
        for entry in self._seen(root):
            if not _is(entry.is_dir):
                self._pass_over_file(entry, is_outside=True)
            elif entry.is_symlink() and _is_around(Path(entry.path), root):
                self.counts["link"] += 1
            else:
                folders.append(Path(entry.path))
        return sorted(folders)

    def images(self, folder: Path) -> list[Path]:
        """Return the images in a folder and those below it, sorted; count what else lies there."""
        found, waiting = [], [folder]
        while waiting:
            for entry in self._seen(waiting.pop()):
                if _is(entry.is_dir):
                    if entry.is_symlink():
                        self.counts["link"] += 1
                    else:
                        waiting.append(Path(entry.path))
                elif _is(entry.is_file) and _ending(entry.name) in EXTENSIONS:
                    found.append(Path(entry.path))
                else:
                    self._pass_over_file(entry, is_outside=False)
        return sorted(found)

    def pass_over(self, folders: Iterable[Path]) -> None:
        """Count folders that stand beside those that are read."""
        self.folders += [folder.name for folder in folders]

    def add(self, other: Scan) -> None:
        """Count what another has counted, too."""
        self.counts += other.counts
        self.endings += other.endings

    def told(self) -> str:
        """Return all that was counted, in words; empty if nothing was passed over."""
        words = [_counted(self.counts["link"], "link")] if self.counts["link"] else []
        if self.endings:
            count = self.endings.total()
            what = "file with another ending" if count == 1 else "files with other endings"
            words.append(f"{count} {what} ({_some([ending for ending, _ in self.endings.most_common()])})")
        if self.folders:
            words.append(f"{_counted(len(self.folders), 'folder')} ({_some(self.folders)})")
        for what in ("image outside the class folders", "hidden entry", "pipe, socket or device"):
            if self.counts[what]:
                words.append(_counted(self.counts[what], what))
        return ", ".join(words)

    def notes(self, root: Path) -> list[str]:
        """Return the line for a run's header, where there is something to say."""
        told = self.told()
        return [f"not read in {root}: {told}"] if told else []

    def _seen(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                listed = list(entries)
        except OSError as error:
            raise FolderError(f"cannot read {folder}: {first_line(error).lower()}") from error
        for entry in listed:
            if entry.name.startswith("."):
                self.counts["hidden entry"] += 1
            else:
                yield entry

    def _pass_over_file(self, entry: os.DirEntry[str], *, is_outside: bool) -> None:
        if not _is(entry.is_file):
            self.counts["link" if entry.is_symlink() else "pipe, socket or device"] += 1
        elif is_outside and _ending(entry.name) in EXTENSIONS:
            self.counts["image outside the class folders"] += 1
        else:
            self.endings[_ending(entry.name) or "none"] += 1


def _is(asked: Callable[[], bool]) -> bool:
    """Ask an entry what it is; a link that leads to itself is nothing, and would raise an error."""
    try:
        return asked()
    except OSError:
        return False


def _is_around(link: Path, root: Path) -> bool:
    """Whether a link leads to the folder that it stands in, or to one above."""
    target, here = link.resolve(), root.resolve()
    return target == here or target in here.parents


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _counted(count: int, what: str) -> str:
    if count == 1:
        return f"1 {what}"
    noun, *rest = what.split(" ", 1)
    plurals = {"hidden entry": "hidden entries", "pipe, socket or device": "pipes, sockets or devices"}
    return f"{count} {plurals.get(what) or ' '.join([f'{noun}s', *rest])}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
