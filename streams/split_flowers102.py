"""Split Oxford Flowers-102 into tasks of new classes: 8,189 photographs, 20 of each class to train on.

M.-E. Nilsback and A. Zisserman, "Automated flower classification over a large number of classes", ICVGIP
2008. No licence is stated; it is used for research. The official training and validation parts (1,020 images
each) are trained on here, the official test part (6,149) is tested on. Natural order: as numbered
there; the files hold no names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from clbench.data.folders import list_folder
from clbench.data.listings import Listing, numbered_names, read_matlab
from clbench.data.sources import find_listed
from clbench.streams import Places, Source, Stream, register


@register("split-flowers102", data="flowers102.npz flowers102 flowers-102", downloads=True)
@dataclass
class SplitFlowers102(Stream):
    """Looked for as ``flowers102.npz``, class folders, torchvision's ``flowers-102/``; else downloaded."""

    tasks: str = "6"
    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels at which images are kept; 0: 256

    def load(self, places: Places) -> Source:
        """Return Flowers-102."""
        from torchvision.datasets import Flowers102

        folders = {"flowers102": list_folder, "flowers-102": _list}
        download = partial(Flowers102, download=True)
        return find_listed("flowers102", places, folders, stored_size=self.stored_size, download=download)


def _list(root: Path) -> Listing:
    """List the official layout: images by number, and their classes and parts in two files of MATLAB's."""
    labels = read_matlab(root / "imagelabels.mat")["labels"].tolist()
    numbers = read_matlab(root / "setid.mat")
    train, valid, test = (
        [
            (root / "jpg" / f"image_{number:05d}.jpg", labels[number - 1] - 1)
            for number in numbers[part].tolist()
        ]
        for part in ("trnid", "valid", "tstid")
    )
    names = numbered_names(label for _, label in train + valid + test)
    return Listing(train + valid, test, [str(int(name) + 1) for name in names])
