"""Make a stream of VTAB-1k: nineteen data sets, each a task of its own classes with 1,000 training images.

X. Zhai et al., "A large-scale study of representation learning with the visual task adaptation benchmark",
2019, arXiv:1910.04867, in the layout that the repositories of PETL methods share. Each data set has its own
terms. The 800 training and 200 validation images of a data set are its training part. Decoded, all 400,000
test images take 60 GB at 224 pixels; ``num_test`` keeps fewer.
Differs from the paper: the tasks share one head, where ``stream.scenario=task`` does not tell a test image's
task; classes without a training or a test image are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from clbench.data.listings import Labelled, Listing, chosen, join_tasks, read_rows
from clbench.data.sources import find_listed
from clbench.streams import Places, Source, Stream, register

DATASETS = (
    *("caltech101", "cifar", "dtd", "oxford_flowers102", "oxford_iiit_pet", "svhn", "sun397"),  # natural
    *("patch_camelyon", "eurosat", "resisc45", "diabetic_retinopathy"),  # specialised
    *("clevr_count", "clevr_dist", "dmlab", "kitti", "dsprites_loc", "dsprites_ori"),  # structured
    *("smallnorb_azi", "smallnorb_ele"),
)


@register("vtab-1k", data="vtab-1k")
@dataclass
class VTAB1k(Stream):
    """Looked for as ``vtab-1k/<data set>/`` with ``train800.txt``, ``val200.txt`` and ``test.txt``."""

    default_augment: ClassVar[str] = "none"

    tasks: str = "stream"
    datasets: str = ",".join(DATASETS)  # which, in the order in which they are met
    num_test: Annotated[int, Field(ge=0)] = 0  # test images of each data set, with one of each class; 0: all
    stored_size: Annotated[int, Field(ge=0)] = 224  # pixels at which images are kept

    def load(self, places: Places) -> Source:
        """Return VTAB-1k."""
        return find_listed("vtab-1k", places, {"vtab-1k": self._list}, stored_size=self.stored_size)

    def _list(self, root: Path) -> Listing:
        names = chosen("datasets", self.datasets, DATASETS)
        return join_tasks({name: self._list_one(root / name) for name in names})

    def _list_one(self, folder: Path) -> Listing:
        """List one data set: ``<file> <class number>`` in a line, the file relative to the folder."""

        def part(name: str) -> Labelled:
            return [(folder / file, int(label)) for file, label in read_rows(folder / f"{name}.txt")]

        train, test = part("train800") + part("val200"), part("test")
        if self.num_test:
            test = _spread(test, self.num_test)
        known = sorted({label for _, label in train} & {label for _, label in test})
        number = {label: place for place, label in enumerate(known)}
        kept = [
            [(file, number[label]) for file, label in files if label in number] for files in (train, test)
        ]
        return Listing(kept[0], kept[1], [str(label) for label in known])


def _spread(files: Labelled, count: int) -> Labelled:
    """Keep so many files, evenly spread over the list, and the first of each class that this leaves out."""
    kept = {index * len(files) // count for index in range(min(count, len(files)))}
    first = {label: index for index, (_, label) in reversed([*enumerate(files)])}
    missing = first.keys() - {files[index][1] for index in kept}
    return [files[index] for index in sorted(kept | {first[label] for label in missing})]
