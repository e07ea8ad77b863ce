"""Split FGVC-Aircraft into tasks of new classes: 10,000 photographs of 100 variants, 6,667 to train on.

S. Maji et al., "Fine-grained visual classification of aircraft", 2013, arXiv:1306.5151. For non-commercial
research only. The official ``trainval`` part is trained on. Natural order: the variants as listed there, by
the alphabet of their makers.
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

URL = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"
MD5 = "d4acdd33327262359767eeaa97a4f732"


@register("split-aircraft", data="aircraft.npz aircraft fgvc-aircraft-2013b", downloads=True)
@dataclass
class SplitAircraft(Stream):
    """Looked for as ``aircraft.npz``, ``aircraft/train/<class>/``, torchvision's layout; else downloaded."""

    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels at which images are kept; 0: 256

    def load(self, places: Places) -> Source:
        """Return FGVC-Aircraft."""
        folders = {"aircraft": list_folder, "fgvc-aircraft-2013b": _list}
        download = archive(URL, MD5)
        return find_listed("aircraft", places, folders, stored_size=self.stored_size, download=download)


def _list(root: Path) -> Listing:
    """List the official layout: ``<image number> <variant>`` in a text file a part."""
    names = [" ".join(words) for words in read_rows(root / "data" / "variants.txt")]
    number = {name: place for place, name in enumerate(names)}

    def part(name: str) -> Labelled:
        rows = read_rows(root / "data" / f"images_variant_{name}.txt")
        images = root / "data" / "images"
        return [(images / f"{image}.jpg", number[" ".join(variant)]) for image, *variant in rows]

    return Listing(part("trainval"), part("test"), names)
