"""Make a stream of CORe50: 164,866 images of 50 objects, filmed in eleven places, 128 x 128 pixels.

V. Lomonaco and D. Maltoni, "CORe50: a new dataset and benchmark for continuous object recognition", CoRL
2017, arXiv:1705.03550. CC BY 4.0. Sessions 3, 7 and 10 are tested on. "New instances" is the
domain-incremental scenario: each of the eight other sessions is a domain. "New classes" is
``stream.scenario=class stream.tasks=B10-Inc5``. Natural order: as numbered, five objects of a category.
Differs from the paper: the orders are not those of its ten runs; in the domain-incremental scenario each
domain is tested on an eighth of the test images, so that all are tested on after the last, not after each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from clbench.data.folders import list_classes
from clbench.data.listings import Labelled, Listing, join_domains
from clbench.data.sources import find_listed
from clbench.streams import Places, Source, Stream, register

CATEGORIES = (
    *("plug adapter", "mobile phone", "scissors", "light bulb", "can"),
    *("glasses", "ball", "marker", "cup", "remote control"),
)
OBJECTS = 5  # of each category
SESSIONS = 11
TESTED = (3, 7, 10)  # sessions


@register("core50", data="core50_128x128 core50_32x32 core50")
@dataclass
class CORe50(Stream):
    """Looked for as ``core50_128x128/s<session>/o<object>/``, ``core50_32x32/``, or either in ``core50/``."""

    tasks: str = "stream"
    scenario: Literal["class", "task", "domain"] = "domain"
    level: Literal["object", "category"] = "object"  # 50 classes, or 10 of five objects each
    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels at which images are kept; 0: as they are

    def load(self, places: Places) -> Source:
        """Return CORe50."""
        sizes = ("core50_128x128", "core50_32x32")
        folders = dict.fromkeys((*sizes, *(f"core50/{size}" for size in sizes)), self._list)
        return find_listed("core50", places, folders, stored_size=self.stored_size)

    def _list(self, root: Path) -> Listing:
        objects = [f"o{number + 1}" for number in range(OBJECTS * len(CATEGORIES))]
        of_one_class = 1 if self.level == "object" else OBJECTS
        train: dict[str, Labelled] = {}
        test: Labelled = []
        for session in range(1, SESSIONS + 1):
            files = list_classes(root / f"s{session}", objects)
            labelled = [(file, number // of_one_class) for file, number in files]
            if session in TESTED:
                test += labelled
            else:
                train[f"session {session}"] = labelled
        names = [f"{category} {number + 1}" for category in CATEGORIES for number in range(OBJECTS)]
        dealt = [test[index :: len(train)] for index in range(len(train))]
        parts = {name: Listing(own, dealt[index], []) for index, (name, own) in enumerate(train.items())}
        return join_domains(parts, names if self.level == "object" else list(CATEGORIES))
