"""Keep what a frozen part of a backbone makes of each image: computed once, whatever the seed or class order.

Features are kept by image row under a key that covers everything they depend on: the images, the weights, the
preprocessing, the precision, and the state of every module that is on. A module that is being trained makes
the blocks from its first one on changeable; what enters that block is kept instead, in memory only. With
``run.exact`` there is no cache, and the predictions are the same.

On disk each file holds what was computed since the one before, so that a task writes what is new and no more.
Its name ends in the first sixteen hexadecimal digits of its own SHA-256: what contradicts it is made anew.
A folder that is full or cannot be written costs the next run time, and this one nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from clbench.backbones.prefix import entering, leaving
from clbench.data.batches import Batcher
from clbench.data.feature_table import Table
from clbench.files import WriteError, make_folder, sweep, write_bytes
from clbench.reading import RecordError, read_bytes

if TYPE_CHECKING:
    from clbench.backbones.backbone import Backbone
    from clbench.data.inputs import Inputs

LAYOUT = 2  # changes when the files, or how features are computed, change
PREFIX_BYTES = 1 << 30  # that may be kept of values entering a block
PIECE = 1 << 26  # bytes hashed at a time
HASH = 16  # digits of it in a name
Compute = Callable[[], Tensor]

log = logging.getLogger(__name__)


class FeatureCache:
    """What is known of one image array, of any backbone."""

    def __init__(
        self,
        batcher: Batcher,
        *,
        batch_size: int,
        folder: Path | None = None,
        precision: str = "fp32",
        account: Callable[[str, int, Compute], Tensor] = lambda key, num_images, compute: compute(),
        account_read: Callable[[str, int, Compute], object] = lambda key, num_images, compute: None,
    ) -> None:
        """Keep features in ``folder``, or in memory only; compute ``batch_size`` images at a time.

        ``account`` calls what computes a batch; it is told the key and the number of images.
        ``account_read`` hears of features that an earlier run has computed and this one uses for the first
        time, and what would compute one of them: what a method takes does not depend on what lies on a disk.
        """
        self.batcher = batcher
        self.batch_size = batch_size
        self.folder = folder
        self.precision = precision
        self.account = account
        self.account_read = account_read
        self.paid: NDArray[np.int64] = np.empty(0, np.int64)  # rows accounted for before a run was stopped
        self.parts: Sequence[NDArray[np.int64]] = ()  # rows of each part of each task, once that is known
        self._tables: dict[str, Table] = {}
        self._expected: dict[str, NDArray[np.int64]] = {}  # by view
        self._images_digest = ""
        self._is_writable = folder is not None

    def expect(self, view: str, rows: NDArray[np.int64]) -> None:
        """Say which rows of a view will be asked for: the first miss computes them all, in this order.

        So the batches in which features are computed do not depend on the order in which they are asked for,
        nor on where a run was stopped. Rows of which nothing was said are computed one by one.
        """
        self._expected[view] = rows

    def features(self, inputs: Inputs, backbone: Backbone) -> Tensor:
        """Return the features (B, width) of the images, computing only what is new or may have changed."""
        first = backbone.first_changing_block
        if first == 0 or inputs.view is None:
            features: Tensor = backbone(inputs.images)
            return features
        if first == len(backbone.blocks):
            return self._known(inputs, backbone, first, backbone)
        table = self._tables.get(self._key(inputs, backbone, first))
        if table is not None and table.num_bytes > PREFIX_BYTES:
            features = backbone(inputs.images)
            return features

        def enter(images: Tensor) -> Tensor:
            return entering(backbone, first, images)

        return leaving(backbone, first, self._known(inputs, backbone, first, enter))

    def save(self) -> None:
        """Write what has come to be known of the backbone alone; where that fails, say so and go on."""
        if self.folder is None or not self._is_writable:
            return
        try:
            for key, table in self._tables.items():
                if table.has_grown and table.is_kept:
                    make_folder(self.folder)
                    sweep(self.folder)
                    data = table.to_bytes()
                    write_bytes(self.folder / f"{key}-{_short_hash(data)}.safetensors", data)
                    table.num_kept = table.count
        except WriteError as error:
            self._is_writable = False
            log.warning("features are kept in memory only, until this run ends: %s", error)

    def forget_unused(self) -> None:
        """Drop what nobody has asked for since the last call: features of modules that have changed."""
        self._tables = {key: table for key, table in self._tables.items() if table.is_used}
        for table in self._tables.values():
            table.is_used = False

    def _known(
        self, inputs: Inputs, backbone: Backbone, block: int, compute: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return what enters the block for these rows, after computing what is missing."""
        key = self._key(inputs, backbone, block)
        if key not in self._tables:
            is_kept = block == len(backbone.blocks) and not backbone.frozen_key()
            self._tables[key] = self._read(key) or Table(len(self.batcher.images), is_kept)
        table = self._tables[key]
        table.is_used = True
        num_owed = table.pay(inputs.rows)
        if num_owed:
            self.account_read(key, num_owed, lambda: self._compute(inputs.rows[:1], inputs, compute))
        if not table.has(inputs.rows):
            # What is kept between runs is computed part by part of the stream, also in a run that goes on.
            for group in [*(self.parts if table.is_kept else []), self._expected.get(inputs.view or "")]:
                if group is not None and np.isin(table.missing(inputs.rows), group).any():
                    self._fill(table, table.missing(group), key, inputs, compute, self.batch_size)
            # Which of the others come together, as a memory draws them, must not show: each is on its own.
            self._fill(table, table.missing(inputs.rows), key, inputs, compute, batch_size=1)
        return table.at(inputs.rows).to(self.batcher.device)

    @torch.no_grad()
    def _fill(
        self,
        table: Table,
        rows: NDArray[np.int64],
        key: str,
        inputs: Inputs,
        compute: Callable[[Tensor], Tensor],
        batch_size: int,
    ) -> None:
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            table.put(part, self.account(key, len(part), partial(self._compute, part, inputs, compute)))

    @torch.no_grad()
    def _compute(
        self, rows: NDArray[np.int64], inputs: Inputs, compute: Callable[[Tensor], Tensor]
    ) -> Tensor:
        transform = self.batcher.plain if inputs.view == "test" else self.batcher.whole
        kind = self.batcher.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16"):
            return compute(transform(self.batcher.gather(rows))).cpu()

    def _key(self, inputs: Inputs, backbone: Backbone, block: int) -> str:
        if not self._images_digest:
            self._images_digest = _digest(self.batcher.images)
        parts: Sequence[object] = (
            LAYOUT,
            self._images_digest,
            backbone.name,
            backbone.weights_digest,
            backbone.dtype,
            backbone.preprocessing,
            inputs.view,
            self.precision,
            self.batcher.device.type,
            block,
            backbone.frozen_key(),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def _read(self, key: str) -> Table | None:
        """Return what the files of earlier runs hold; a damaged one is removed and told of."""
        table = Table(len(self.batcher.images), is_kept=True)
        for file in sorted(self.folder.glob(f"{key}-*.safetensors")) if self.folder else ():
            try:
                data = read_bytes(file)
                if _short_hash(data) != file.stem.rpartition("-")[2]:
                    raise ValueError("it contradicts its name")
                rows = table.put_read(load(data))
            except (RecordError, SafetensorError, KeyError, ValueError, RuntimeError):
                log.warning("the features in %s are damaged and are computed anew", file)
                with suppress(OSError):
                    file.unlink()
            else:
                table.is_owed[rows] = ~np.isin(rows, self.paid)
        return table if table.count else None


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:HASH]


def _digest(images: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of an image array's shape and pixels."""
    total = hashlib.sha256(repr(images.shape).encode())
    step = max(1, PIECE // max(1, images[:1].nbytes))
    for start in range(0, len(images), step):
        total.update(np.ascontiguousarray(images[start : start + step]).data)
    return total.hexdigest()
