"""Make a stream of any ``.npz`` file of images: ``--stream npz:FILE``.

Keys: ``train_x``, ``test_x`` (N, H, W) or (N, H, W, C) of uint8, uint16, bool or floats, C being 1 (grey),
2 (grey and alpha), 3 or 4 (RGB and alpha); ``train_y``, ``test_y`` (N,) integers from 0, and optionally
``names`` (C,), the classes' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clbench.data.npz import read_npz
from clbench.errors import UserError
from clbench.streams import Places, Source, Stream, register


@register("npz", argument="file")
@dataclass
class Npz(Stream):
    """Classes in the order of their numbers."""

    file: str = ""  # the .npz file

    def load(self, places: Places) -> Source:
        """Return the images of the file."""
        if not self.file:
            raise UserError("stream npz needs a file: --stream npz:FILE")
        return read_npz(Path(self.file).expanduser(), cache_dir=places.cache_dir)
