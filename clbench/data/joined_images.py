"""Put image arrays one behind the other without copying them, also where one of them is not there.

What a run does with an image array is to ask it for rows. So what learns on sees the images of the streams
before as the first rows of one array, and the numbers that a memory knows them by stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from clbench.data.stored import Stored

Rows = NDArray[np.int64]
Images = NDArray[np.uint8]


class AbsentError(LookupError):
    """A picture that is asked for and is not there: no user's fault."""


@dataclass(frozen=True, eq=False)
class AbsentImages:
    """The rows of an array that is not there; of some of them a memory has the pictures."""

    num_rows: int
    height: int
    width: int
    first_row: int  # what the first row is numbered in the whole
    remembered: Callable[[], Iterable[Stored]]  # what memories hold now

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.num_rows

    def __getitem__(self, rows: Rows | slice) -> Images:
        """Return pictures (n, H, W, 3); of a slice, those that are not there are black."""
        if isinstance(rows, slice):
            return np.zeros((len(range(*rows.indices(self.num_rows))), self.height, self.width, 3), np.uint8)
        found = np.zeros((len(rows), self.height, self.width, 3), np.uint8)
        is_missing = np.ones(len(rows), np.bool_)
        for stored in self.remembered() if len(rows) else ():
            places = {int(row): place for place, row in enumerate((stored.rows - self.first_row).tolist())}
            for index in np.flatnonzero(is_missing).tolist():
                place = places.get(int(rows[index]))
                if place is not None:
                    found[index] = stored.items[place].permute(1, 2, 0).cpu().numpy()
                    is_missing[index] = False
        if is_missing.any():
            raise AbsentError(f"row {rows[is_missing][0] + self.first_row} of a stream that is not there")
        return found


@dataclass(frozen=True, eq=False)
class JoinedImages:
    """Arrays (n, H, W, 3) of one size, one behind the other, asked as one array is."""

    parts: Sequence[Images | AbsentImages]

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(map(len, self.parts))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Rows, height, width and colours, as of an array."""
        known = next(part for part in self.parts if not isinstance(part, AbsentImages))
        return len(self), known.shape[1], known.shape[2], known.shape[3]

    @property
    def nbytes(self) -> int:
        """The bytes of an array that held all rows."""
        return int(np.prod(self.shape))

    def __getitem__(self, rows: Rows | slice) -> Images:
        """Return the pictures of these rows, (n, H, W, 3)."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            pieces, first = [], 0
            for part in self.parts:
                inside = slice(max(0, start - first), max(0, min(len(part), stop - first)))
                pieces.append(np.asarray(part[inside]))
                first += len(part)
            return np.concatenate(pieces)
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        first = 0
        for part in self.parts:
            is_inside = (rows >= first) & (rows < first + len(part))
            if is_inside.any():
                found[is_inside] = part[rows[is_inside] - first]
            first += len(part)
        return found


def joined_images(parts: Sequence[Images | AbsentImages]) -> Images:
    """Return the arrays as one; it is no array of numpy's, and answers where a run asks one."""
    return cast("Images", cast("Any", JoinedImages(parts)))
