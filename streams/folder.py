"""Make a stream of any tree of class folders: ``--stream folder:PATH``.

``PATH/<class>/<image>``, or ``PATH/train/<class>/`` and ``PATH/test/<class>/`` (``val`` and ``validation``
serve as test part too). Images that differ in size are resized and cut to squares of ``stored_size`` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from clbench.data.folders import list_folder
from clbench.data.sources import read_given
from clbench.streams import Places, Source, Stream, register


@register("folder", argument="path")
@dataclass
class Folder(Stream):
    """Classes by the alphabet of their folders' names; without a test part, a fifth of each class is one."""

    path: str = ""  # the folder
    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels; 0: as they are if all alike and <= 256, else 256

    def load(self, places: Places) -> Source:
        """Return the images of the tree."""
        return read_given(
            "folder", self.path, list_folder, cache_dir=places.cache_dir, stored_size=self.stored_size
        )
