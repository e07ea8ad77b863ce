"""Hold one tensor for each of some rows of an image array, and grow as more come."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor


class Table:
    """Values by row, in the order in which they came."""

    def __init__(self, num_rows: int, is_kept: bool) -> None:
        """Know nothing yet of ``num_rows`` rows."""
        self.place = np.full(num_rows, -1, np.int64)  # of a row's value
        self.values: Tensor | None = None
        self.count = 0
        self.is_kept = is_kept  # on disk
        self.is_used = True  # since the cache last looked
        self.num_kept = 0  # values that a file holds
        self.names: list[str] = []  # of the files that were read
        self.is_paid = np.zeros(num_rows, np.bool_)  # rows whose values are on an account
        self.flops_per_image: float | None = None  # of a value; None: not counted yet
        self.num_bytes_before = 0  # that the values took before the run was stopped

    @property
    def num_bytes(self) -> int:
        """Bytes that the values take, or took before the run was stopped."""
        here = 0 if self.values is None else self.values.untyped_storage().nbytes()
        return max(here, self.num_bytes_before)

    @property
    def has_grown(self) -> bool:
        """Whether there are values that no file holds."""
        return self.count > self.num_kept

    def has(self, rows: NDArray[np.int64]) -> bool:
        """Tell whether the values of all these rows are known."""
        return bool((self.place[rows] >= 0).all())

    def missing(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of the rows whose values are not known, each once, in their order."""
        unknown = rows[self.place[rows] < 0]
        _, first = np.unique(unknown, return_index=True)
        return unknown[np.sort(first)]

    def pay(self, rows: NDArray[np.int64]) -> int:
        """Count those of the rows that nobody has paid for, each once; from now on somebody has."""
        owed = np.unique(rows[~self.is_paid[rows]])
        self.is_paid[owed] = True
        return len(owed)

    def put(self, rows: NDArray[np.int64], values: Tensor) -> None:
        """Add the values of new rows."""
        with torch.inference_mode(False):  # what is kept may be learnt from later
            need = self.count + len(rows)
            if self.values is None or len(self.values) < need:
                grown = torch.empty(max(need, 2 * self.count), *values.shape[1:], dtype=values.dtype)
                if self.values is not None:
                    grown[: self.count] = self.values[: self.count]
                self.values = grown
        self.values[self.count : need] = values
        self.place[rows] = np.arange(self.count, need)
        self.count = need

    def at(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the values of known rows."""
        assert self.values is not None
        with torch.inference_mode(False):
            return self.values[torch.from_numpy(self.place[rows])]

    def to_bytes(self) -> bytes:
        """Return rows and values that no file holds as a safetensors file."""
        assert self.values is not None
        rows = np.flatnonzero(self.place >= self.num_kept)
        return save({"rows": torch.from_numpy(rows), "values": self.at(rows).contiguous()})

    def put_read(self, tensors: Mapping[str, Tensor]) -> None:
        """Add what such a file holds; ValueError where it does not fit."""
        rows, values = tensors["rows"].numpy(), tensors["values"]
        fits = rows.ndim == 1 and rows.dtype == np.int64 and values.shape[:1] == rows.shape
        if not fits or (len(rows) and not (rows.min() >= 0 and rows.max() < len(self.place))):
            raise ValueError("rows and values do not fit")
        is_new = self.place[rows] < 0  # two runs may have written the same
        self.put(rows[is_new], values[torch.from_numpy(is_new)])
        self.num_kept = self.count

    def state(self) -> dict[str, Any]:
        """Return what is accounted for, for a checkpoint: the values are computed again."""
        paid = base64.b64encode(zlib.compress(np.packbits(self.is_paid).tobytes())).decode()
        known = {"flops_per_image": self.flops_per_image, "num_bytes": self.num_bytes}
        return {"paid": paid, "is_kept": self.is_kept, "is_used": self.is_used, **known}

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` returned."""
        bits = np.frombuffer(zlib.decompress(base64.b64decode(state["paid"])), np.uint8)
        self.is_paid = np.unpackbits(bits, count=len(self.place)).astype(np.bool_)
        self.is_used = state["is_used"]
        self.flops_per_image = state["flops_per_image"]
        self.num_bytes_before = state["num_bytes"]
