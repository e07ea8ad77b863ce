"""Split CUB-200-2011 into tasks of new classes: 11,788 photographs of 200 birds, about 30 + 29 of each.

C. Wah et al., "The Caltech-UCSD Birds-200-2011 dataset", 2011. For non-commercial research only. D.-W. Zhou
et al. (arXiv:2303.07338) divide it otherwise, 9,430 images to train and 2,358 to test on; give theirs as
class folders. Natural order: as numbered there, by the alphabet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from clbench.data.downloads import archive
from clbench.data.folders import list_folder
from clbench.data.listings import Labelled, Listing, read_rows
from clbench.data.sources import find_listed
from clbench.streams import Places, Source, Stream, register

URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
MD5 = "97eceeb196236b17998738112f37df78"


@register("split-cub200", data="cub200.npz cub200 cub CUB_200_2011", downloads=True)
@dataclass
class SplitCUB200(Stream):
    """Looked for as ``cub200.npz``, ``cub200/train/<class>/``, ``CUB_200_2011/``; else downloaded."""

    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels at which images are kept; 0: 256

    def load(self, places: Places) -> Source:
        """Return CUB-200-2011."""
        folders = {"cub200": list_folder, "cub": list_folder, "CUB_200_2011": _list}
        download = archive(URL, MD5)
        return find_listed("cub200", places, folders, stored_size=self.stored_size, download=download)


def _list(root: Path) -> Listing:
    """List the official layout: files, classes and parts by image number, each in a text file."""
    files = dict(read_rows(root / "images.txt"))
    is_train = dict(read_rows(root / "train_test_split.txt"))
    train: Labelled = []
    test: Labelled = []
    for image, label in read_rows(root / "image_class_labels.txt"):
        (train if is_train[image] == "1" else test).append((root / "images" / files[image], int(label) - 1))
    names = [name.partition(".")[2] for _, name in read_rows(root / "classes.txt")]
    return Listing(train, test, names)
