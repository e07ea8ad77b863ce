"""Split ImageNet-A into tasks of new classes: 7,500 photographs of 200 classes that ResNet-50 gets wrong.

D. Hendrycks et al., "Natural adversarial examples", CVPR 2021, arXiv:1907.07174. MIT licence; the pictures
belong to their makers. The collection has no training part, and classes of 3 to 100 images. D.-W. Zhou et al.
(arXiv:2303.07338) train on 5,981 and test on 1,519 images; give theirs as folders ``train`` and ``test``, or
as ``test_list``. Without either a fifth of each class is tested on. Natural order: by their WordNet numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from clbench.data.downloads import archive
from clbench.data.folders import lister
from clbench.data.sources import find_listed
from clbench.streams import Places, Source, Stream, register

URL = "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar"
MD5 = "c3e55429088dc681f30d81f4726b6595"


@register("split-imagenet-a", data="imagenet-a.npz imagenet-a", downloads=True)
@dataclass
class SplitImageNetA(Stream):
    """Looked for as ``imagenet-a.npz``, ``imagenet-a/<class>/`` or with ``train/``; else downloaded."""

    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels at which images are kept; 0: 256
    test_list: str = ""  # text file that names the test images, <class>/<file> at the start of a line

    def load(self, places: Places) -> Source:
        """Return ImageNet-A."""
        folders, download = {"imagenet-a": lister(self.test_list)}, archive(URL, MD5)
        return find_listed("imagenet-a", places, folders, stored_size=self.stored_size, download=download)
