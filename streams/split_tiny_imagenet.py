"""Split Tiny ImageNet into tasks of new classes: 200 classes of 64 x 64 pixels, 500 + 50 images of each.

Y. Le and X. Yang, "Tiny ImageNet visual recognition challenge", Stanford CS 231N, 2015. ImageNet's terms:
research and education only. The official test part has no labels, so the validation part is tested on, as in
the field. Natural order: the classes by their WordNet numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from clbench.data.downloads import archive
from clbench.data.folders import list_classes, list_folder
from clbench.data.listings import FolderError, Listing, read_rows
from clbench.data.sources import find_listed
from clbench.streams import Places, Source, Stream, register

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


@register("split-tiny-imagenet", data="tiny-imagenet.npz tiny-imagenet tiny-imagenet-200", downloads=True)
@dataclass
class SplitTinyImageNet(Stream):
    """Looked for as ``tiny-imagenet.npz``, class folders or as in the official archive; else downloaded."""

    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels at which images are kept; 0: as they are

    def load(self, places: Places) -> Source:
        """Return Tiny ImageNet."""
        folders = dict.fromkeys(("tiny-imagenet", "tiny-imagenet-200"), _list)
        download = archive(URL, MD5)
        return find_listed("tiny-imagenet", places, folders, stored_size=self.stored_size, download=download)


def _list(root: Path) -> Listing:
    """List class folders, or the official layout, where a text file names the validation images' classes."""
    annotations = root / "val" / "val_annotations.txt"
    if not annotations.is_file():
        return list_folder(root)
    names = sorted(folder.name for folder in (root / "train").glob("[!.]*/"))
    test = []
    for file, name, *_ in read_rows(annotations):
        if name not in names:
            raise FolderError(f"{annotations}: class {name!r} is not in {root / 'train'}")
        test.append((root / "val" / "images" / file, names.index(name)))
    return Listing(list_classes(root / "train", names), test, names)
