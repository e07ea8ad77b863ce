"""Split Stanford Cars into tasks of new classes: 16,185 photographs of 196 models, 8,144 to train on.

J. Krause et al., "3D object representations for fine-grained categorization", ICCV workshop 2013. For
research only. The authors' page is gone, so nothing is downloaded. Natural order: the models as numbered
there, by their names' alphabet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from clbench.data.folders import list_folder
from clbench.data.listings import Labelled, Listing, read_matlab
from clbench.data.sources import find_listed
from clbench.streams import Places, Source, Stream, register


@register("split-cars", data="cars.npz cars stanford_cars")
@dataclass
class SplitCars(Stream):
    """Looked for as ``cars.npz``, ``cars/train/<class>/`` or torchvision's ``stanford_cars/``."""

    tasks: str = "14"
    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels at which images are kept; 0: 256

    def load(self, places: Places) -> Source:
        """Return Stanford Cars."""
        folders = {"cars": list_folder, "stanford_cars": _list}
        return find_listed("cars", places, folders, stored_size=self.stored_size)


def _list(root: Path) -> Listing:
    """List the official layout: two folders of images, and their classes in files of MATLAB's."""

    def part(annotations: Path, images: Path) -> Labelled:
        rows = read_matlab(annotations)["annotations"]
        return [(images / str(row["fname"]), int(row["class"]) - 1) for row in rows]

    names = [str(name) for name in read_matlab(root / "devkit" / "cars_meta.mat")["class_names"]]
    train = part(root / "devkit" / "cars_train_annos.mat", root / "cars_train")
    return Listing(train, part(root / "cars_test_annos_withlabels.mat", root / "cars_test"), names)
