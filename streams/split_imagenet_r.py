"""Split ImageNet-R into tasks of new classes: 30,000 renditions (art, cartoons, toys, ...) of 200 classes.

D. Hendrycks et al., "The many faces of robustness", ICCV 2021, arXiv:2006.16241. The collection has no
training part. DualPrompt (arXiv:2204.04799) fixed a list of 24,000 training and 6,000 test images,
CODA-Prompt another; give the test images of one as ``test_list``. Without it a fifth of each class is tested
on: the same proportion, not the same images. MIT licence; the pictures belong to their makers. Natural order:
the classes by their WordNet numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from clbench.data.downloads import archive
from clbench.data.folders import lister
from clbench.data.sources import find_listed
from clbench.streams import Places, Source, Stream, register

URL = "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar"
MD5 = "a61312130a589d0ca1a8fca1f2bd3337"


@register("split-imagenet-r", data="imagenet-r.npz imagenet-r", downloads=True)
@dataclass
class SplitImageNetR(Stream):
    """Looked for as ``imagenet-r.npz``, ``imagenet-r/<class>/`` or with ``train/``; else downloaded."""

    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels at which images are kept; 0: 256
    test_list: str = ""  # text file that names the test images, <class>/<file> at the start of a line

    def load(self, places: Places) -> Source:
        """Return ImageNet-R."""
        folders, download = {"imagenet-r": lister(self.test_list)}, archive(URL, MD5)
        return find_listed("imagenet-r", places, folders, stored_size=self.stored_size, download=download)
