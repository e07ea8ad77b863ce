"""Split Tiny ImageNet into tasks of new classes: 200 classes of 64 x 64 pixels, 500 + 50 images of each.

Y. Le and X. Yang, "Tiny ImageNet visual recognition challenge", Stanford CS 231N, 2015. ImageNet's terms:
research and education only. The official test part has no labels, so the validation part is tested on, as in
the field. Natural order: the classes by their WordNet numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from clbench.streams import Places, Source, Stream, register

if TYPE_CHECKING:
    from clbench.data.folders import Listing

ANNOTATIONS = "val_annotations.txt"


@register("split-tiny-imagenet", data="tiny-imagenet.npz tiny-imagenet tiny-imagenet-200")
@dataclass
class SplitTinyImageNet(Stream):
    """Looked for as ``tiny-imagenet.npz``, as unpacked from the official archive, or as class folders."""

    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels at which images are kept; 0: as they are

    def load(self, places: Places) -> Source:
        """Return Tiny ImageNet."""
        from clbench.data.sources import find

        return find(
            "tiny-imagenet",
            places,
            folders=("tiny-imagenet", "tiny-imagenet-200"),
            list_images=_list,
            stored_size=self.stored_size,
        )


def _list(root: Path) -> Listing:
    """List class folders, or the official layout, where a text file names the validation images' classes."""
    from clbench.data.folders import FolderError, Listing, list_classes, list_folder

    annotations = root / "val" / ANNOTATIONS
    if not annotations.is_file():
        return list_folder(root)
    names = sorted(folder.name for folder in (root / "train").glob("[!.]*/"))
    test = []
    for line in annotations.read_text(encoding="utf-8").splitlines():
        file, name = line.split()[:2]
        if name not in names:
            raise FolderError(f"{annotations}: class {name!r} is not in {root / 'train'}")
        test.append((root / "val" / "images" / file, names.index(name)))
    return Listing(list_classes(root / "train", names), test, names)
