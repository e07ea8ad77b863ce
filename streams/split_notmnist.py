"""Split notMNIST into tasks of new letters: 18,724 glyphs A to J of 28 x 28 pixels, cut out of many fonts.

Y. Bulatov, "notMNIST dataset", 2011, its small, hand-cleaned part. No licence is stated. It has no test part:
without folders for the parts a fifth of each letter is tested on (S. Ebrahimi et al., arXiv:2003.09553, hold
out a tenth). Two files of the archive are empty and are passed over. Natural order: A to J.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from clbench.data.downloads import archive
from clbench.data.folders import list_folder
from clbench.data.listings import Listing
from clbench.data.sources import find_listed
from clbench.streams import Places, Source, Stream, register

URL = "http://yaroslavvb.com/upload/notMNIST/notMNIST_small.tar.gz"
MD5 = "c9890a473a9769fda4bdf314aaf500dd"


@register("split-notmnist", data="notmnist.npz notmnist notMNIST notMNIST_small", downloads=True)
@dataclass
class SplitNotMNIST(Stream):
    """Looked for as ``notmnist.npz``, ``notmnist/``, ``notMNIST/``, ``notMNIST_small/``; else downloaded."""

    default_augment: ClassVar[str] = "crop"  # a letter is never to be mirrored

    tasks: str = "5"

    def load(self, places: Places) -> Source:
        """Return notMNIST."""
        folders = dict.fromkeys(("notmnist", "notMNIST", "notMNIST_small"), _list)
        return find_listed("notmnist", places, folders, download=archive(URL, MD5))


def _list(root: Path) -> Listing:
    """List class folders, less what is empty."""
    listing = list_folder(root)
    train, test = (
        [(file, label) for file, label in part if file.stat().st_size]
        for part in (listing.train, listing.test)
    )
    num_empty = len(listing.train) + len(listing.test) - len(train) - len(test)
    notes = [*listing.notes, *([f"not read in {root}: {num_empty} empty file(s)"] if num_empty else [])]
    return Listing(train, test, listing.class_names, notes=notes)
