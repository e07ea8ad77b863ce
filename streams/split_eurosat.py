"""Split EuroSAT into tasks of new classes: 27,000 satellite images of 64 x 64 pixels, 2,000 to 3,000 of each.

P. Helber et al., "EuroSAT: a novel dataset and deep learning benchmark for land use and land cover
classification", IEEE JSTARS 2019, arXiv:1709.00029. MIT licence. The collection has no test part: a fifth of
each class is tested on. Natural order: the ten classes by their names' alphabet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from clbench.data.folders import list_folder
from clbench.data.sources import find_listed
from clbench.streams import Places, Source, Stream, register


@register("split-eurosat", data="eurosat.npz eurosat EuroSAT_RGB", downloads=True)
@dataclass
class SplitEuroSAT(Stream):
    """Looked for as ``eurosat.npz``, ``eurosat/2750/<class>/``, ``eurosat/<class>/``; else downloaded."""

    tasks: str = "5"

    def load(self, places: Places) -> Source:
        """Return EuroSAT."""
        from torchvision.datasets import EuroSAT

        folders = dict.fromkeys(("eurosat/2750", "eurosat", "EuroSAT_RGB"), list_folder)
        return find_listed("eurosat", places, folders, download=partial(EuroSAT, download=True))
