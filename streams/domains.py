"""Make a stream of any tree of domains, each a tree of class folders: ``--stream domains:PATH``.

``PATH/<domain>/<class>/<image>``, or ``PATH/<domain>/train/<class>/`` and ``PATH/<domain>/test/<class>/``.
Classes of one name are one class in all domains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from clbench.data.folders import list_domains
from clbench.data.sources import read_given
from clbench.streams import Places, Source, Stream, register


@register("domains", argument="path")
@dataclass
class Domains(Stream):
    """Domains and classes by the alphabet of their folders' names; without a test part, a fifth is one."""

    tasks: str = "stream"
    scenario: Literal["class", "task", "domain"] = "domain"
    path: str = ""  # the folder
    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels; 0: as they are if all alike and <= 256, else 256

    def load(self, places: Places) -> Source:
        """Return the images of the tree, with their domains."""
        return read_given(
            "domains", self.path, list_domains, cache_dir=places.cache_dir, stored_size=self.stored_size
        )
