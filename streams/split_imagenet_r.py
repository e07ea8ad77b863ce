"""Split ImageNet-R into tasks of new classes: 30,000 renditions (art, cartoons, toys, ...) of 200 classes.

D. Hendrycks et al., "The many faces of robustness", ICCV 2021, arXiv:2006.16241. The collection has no
training part. DualPrompt (arXiv:2204.04799) fixed a list of 24,000 training and 6,000 test images,
CODA-Prompt another; give the test images of one as ``test_list``. Without it a fifth of each class is tested
on: the same proportion, not the same images. MIT licence; the pictures belong to their makers. Natural order:
the classes by their WordNet numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from clbench.streams import Places, Source, Stream, register

if TYPE_CHECKING:
    from clbench.data.folders import Listing


@register("split-imagenet-r", data="imagenet-r.npz imagenet-r")
@dataclass
class SplitImageNetR(Stream):
    """Looked for as ``imagenet-r.npz``, ``imagenet-r/<class>/`` or ``imagenet-r/train/<class>/``."""

    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels at which images are kept; 0: 256
    test_list: str = ""  # text file that names the test images, <class>/<file> at the start of a line

    def load(self, places: Places) -> Source:
        """Return ImageNet-R."""
        from clbench.data.sources import find

        return find(
            "imagenet-r",
            places,
            folders=("imagenet-r",),
            list_images=self._list,
            stored_size=self.stored_size,
        )

    def _list(self, root: Path) -> Listing:
        from clbench.data.folders import FolderError, Listing, list_classes, list_folder

        if not self.test_list:
            return list_folder(root)
        try:
            lines = Path(self.test_list).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FolderError(f"stream.test_list: cannot read {self.test_list!r}: {error}") from error
        named = {tuple(Path(line.split()[0]).parts[-2:]) for line in lines if line.strip()}
        names = sorted(folder.name for folder in root.glob("[!.]*/"))
        train: list[tuple[Path, int]] = []
        test: list[tuple[Path, int]] = []
        for file, label in list_classes(root, names):
            (test if file.parts[-2:] in named else train).append((file, label))
        if len(test) != len(named):
            missing = sorted(named - {file.parts[-2:] for file, _ in test})[0]
            raise FolderError(f"stream.test_list: {self.test_list} names {'/'.join(missing)}, not in {root}")
        return Listing(train, test, names)
