"""Put image arrays one behind the other without copying them, also where one of them is not there.

What a run does with an image array is to ask it for rows. So what learns on sees the images of the streams
before as the first rows of one array, and the numbers that a memory knows them by stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from clbench.data.stored import Stored

Rows = NDArray[np.int64]
Images = NDArray[np.uint8]


class AbsentError(LookupError):
    """A picture that is asked for and is not there: no user's fault."""


@dataclass(eq=False)
class AbsentImages:
    """The rows of an array that is not there; of some of them a memory has the pictures.

    It is asked when a picture is first wanted, once the memory holds what it held when the learner was
    stored: pictures that the memory gives up later are still to be seen in the task that began with them.
    """

    num_rows: int
    height: int
    width: int
    first_row: int  # what the first row is numbered in the whole
    remembered: Callable[[], Iterable[Stored]]  # what memories hold now

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.num_rows

    @cached_property
    def pictures(self) -> dict[int, Images]:
        """The pictures (H, W, 3) that memories hold, by row."""
        return {
            row: item.permute(1, 2, 0).cpu().numpy()
            for stored in self.remembered()
            for row, item in zip((stored.rows - self.first_row).tolist(), stored.items, strict=True)
        }

    def __getitem__(self, rows: Rows | slice) -> Images:
        """Return pictures (n, H, W, 3); of a slice, all are black."""
        if isinstance(rows, slice):
            return np.zeros((len(range(*rows.indices(self.num_rows))), self.height, self.width, 3), np.uint8)
        if not len(rows):
            return np.zeros((0, self.height, self.width, 3), np.uint8)
        try:
            return np.stack([self.pictures[row] for row in rows.tolist()])
        except KeyError as error:
            raise AbsentError(f"row {self.first_row + error.args[0]} of a stream that is not there") from None


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
