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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from clbench.backbones.prefix import entering, leaving
from clbench.data.accounts import Account, Unaccounted
from clbench.data.batches import Batcher, in_order
from clbench.data.feature_table import Table
from clbench.files import WriteError, make_folder, sweep, write_bytes
from clbench.outside.finite import described, is_finite, refuse_not_finite
from clbench.outside.reading import RecordError, first_line, read_bytes

if TYPE_CHECKING:
    from clbench.backbones.backbone import Backbone
    from clbench.backbones.ranks import Ranks
    from clbench.data.inputs import Inputs

LAYOUT = 3  # changes when the files, or how features are computed, change
FEWEST = 2  # images in a batch: a product with a single row is rounded in another way on some processors
PREFIX_BYTES = 1 << 30  # that may be kept of values entering a block
PIECE = 1 << 26  # bytes hashed at a time
GROWTH = 1.25  # by which what is known has to grow before it is written again, but for the end of a run
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
        account: Account | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Keep features in ``folder``, or in memory only; compute ``batch_size`` images at a time.

        Of several processes of one run, ``ranks``, the first alone writes, and all know the same.

        Each image is paid for once, when it is first asked for: what a method takes depends neither on what
        lies on a disk nor on where a run was stopped.
        """
        self.batcher = batcher
        self.batch_size = batch_size
        self.folder = folder
        self.precision = precision
        self.account = account or Unaccounted()
        self.ranks = ranks
        # Rows accounted for in a run that was stopped before checkpoints told which those are.
        self.paid: NDArray[np.int64] = np.empty(0, np.int64)
        self._parts: Sequence[NDArray[np.int64]] = ()  # rows of each part of each task, once that is known
        self._part_of_row: NDArray[np.int64] = np.empty(0, np.int64)  # the first that holds it; -1: none does
        self._tables: dict[str, Table] = {}
        self._expected: dict[str, NDArray[np.int64]] = {}  # by view
        self._images_digest = ""
        self._is_writable = folder is not None and (ranks is None or ranks.is_first)

    def expect(self, view: str, rows: NDArray[np.int64]) -> None:
        """Say which rows of a view will be asked for: the first miss computes them all, in this order.

        So the batches in which features are computed do not depend on the order in which they are asked for,
        nor on where a run was stopped. Rows of which nothing was said are computed one by one.
        """
        self._expected[view] = rows

    def expect_parts(self, parts: Sequence[NDArray[np.int64]]) -> None:
        """Say which rows belong together, such as the training images of a task: the same in every run."""
        self._parts = parts
        self._part_of_row = np.full(len(self.batcher.images), -1, np.int64)
        for number in reversed(range(len(parts))):
            self._part_of_row[parts[number]] = number

    def features(self, inputs: Inputs, backbone: Backbone) -> Tensor:
        """Return the features (B, width) of the images, computing only what is new or may have changed."""
        first = backbone.first_changing_block
        if first == 0 or inputs.view is None:
            features: Tensor = backbone(inputs.images)
            return features
        key = self._key(inputs, backbone, first)
        if first == len(backbone.blocks):
            return self._known(key, inputs, backbone, first, backbone)
        table = self._tables.get(key)
        if table is not None and table.num_bytes > PREFIX_BYTES:
            features = backbone(inputs.images)
            return features

        def enter(images: Tensor) -> Tensor:
            return entering(backbone, first, images)

        return leaving(backbone, first, self._known(key, inputs, backbone, first, enter))

    def save(self, growth: float = 1.0) -> None:
        """Write what has come to be known of the backbone alone, where it has grown by that factor since.

        Where that fails, say so and go on.
        """
        if self.folder is None or not self._is_writable:
            return
        try:
            for key, table in self._tables.items():
                if table.is_kept and table.has_grown and table.count >= growth * table.num_kept:
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

    def state(self) -> dict[str, Any]:
        """Return what has been accounted for, for a checkpoint."""
        return {key: table.state() for key, table in self._tables.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state: what was accounted for is not paid for again."""
        for key, values in state.items():
            self._tables[key] = self._opened(key, is_kept=values["is_kept"])
            self._tables[key].go_on_from(values)

    def _known(
        self, key: str, inputs: Inputs, backbone: Backbone, block: int, compute: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return what enters the block for these rows, after computing what is missing under the key."""
        if key not in self._tables:
            is_kept = block == len(backbone.blocks) and backbone.is_itself
            self._tables[key] = self._opened(key, is_kept=is_kept)
        table = self._tables[key]
        table.is_used = True
        missing = table.missing(inputs.rows)
        if len(missing):
            source = f"backbone {backbone.name} ({backbone.weights_source} weights)"
            for group in self._groups(table, missing, inputs.view):
                self._fill(table, table.missing(group), inputs, compute, source, self.batch_size)
            # Which of the others come together, as a memory draws them, must not show: each is on its own.
            self._fill(table, table.missing(inputs.rows), inputs, compute, source, batch_size=1)
        owed = inputs.rows[~table.is_paid[inputs.rows]]
        if len(owed):
            # What is asked for is paid with all that would be computed with it, whether it was or not.
            num_owed = sum(table.pay(rows) for rows in [*self._groups(table, owed, inputs.view), owed])
            self.account.charge(num_owed * self._flops_per_image(table, inputs, compute))
        return table.at(inputs.rows).to(self.batcher.device)

    def _groups(self, table: Table, rows: NDArray[np.int64], view: str | None) -> list[NDArray[np.int64]]:
        """Return the groups in which these rows are computed, where they are among what was expected.

        What is kept between runs is computed part by part of the stream, also in a run that goes on.
        """
        groups = []
        if table.is_kept and len(self._parts):
            part = self._part_of_row[rows]
            groups = [self._parts[number] for number in np.unique(part[part >= 0])]
            rows = rows[part < 0]
        expected = self._expected.get(view or "")
        if expected is not None and np.isin(rows, expected).any():
            groups.append(expected)
        return groups

    def _flops_per_image(self, table: Table, inputs: Inputs, compute: Callable[[Tensor], Tensor]) -> float:
        """Return the FLOPs of a value, counted on one image where none was computed while it was counted."""
        if table.flops_per_image is None:
            one = partial(self._compute, inputs.rows[:1], inputs, compute)
            _, flops = self.account.encoded(0, one, is_known=False)
            table.flops_per_image = None if flops is None else flops / FEWEST
        return table.flops_per_image or 0.0

    @torch.no_grad()
    def _fill(
        self,
        table: Table,
        rows: NDArray[np.int64],
        inputs: Inputs,
        compute: Callable[[Tensor], Tensor],
        source: str,
        batch_size: int,
    ) -> None:
        for places in in_order(len(rows), batch_size):
            part = rows[places]
            known = table.flops_per_image
            values, flops = self.account.encoded(
                len(part), partial(self._compute, part, inputs, compute), is_known=known is not None
            )
            if known is None and flops is not None:
                table.flops_per_image = flops / max(len(part), FEWEST)
            refuse_not_finite(values, f"what it makes of rows {part[0]} to {part[-1]}", source)
            table.put(part, values)

    @torch.no_grad()
    def _compute(
        self, rows: NDArray[np.int64], inputs: Inputs, compute: Callable[[Tensor], Tensor]
    ) -> Tensor:
        transform = self.batcher.plain if inputs.view == "test" else self.batcher.whole
        kind = self.batcher.device.type
        images = transform(self.batcher.gather(rows if len(rows) > 1 else np.repeat(rows, FEWEST)))
        with torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16"):
            return compute(images)[: len(rows)].cpu()

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

    def _opened(self, key: str, *, is_kept: bool) -> Table:
        """Return what an earlier run has left under a key, or an empty table."""
        found = self._read(key)
        if self.ranks and not self.ranks.are_equal(found.names if found else []):
            found = None  # another process found something else: a file that has just been written, say
        table = found or Table(len(self.batcher.images), is_kept)
        table.is_paid[self.paid] = table.is_kept
        return table

    def _read(self, key: str) -> Table | None:
        """Return what the files of earlier runs hold; a damaged one is removed and told of."""
        table = Table(len(self.batcher.images), is_kept=True)
        for file in sorted(self.folder.glob(f"{key}-*.safetensors")) if self.folder else ():
            try:
                data = read_bytes(file)
                if _short_hash(data) != file.stem.rpartition("-")[2]:
                    raise ValueError("it contradicts its name")
                tensors = load(data)
                if not is_finite(tensors["values"]):
                    raise ValueError(f"it holds {described(tensors['values'])}")
                table.put_read(tensors)
                table.names.append(file.name)
            except (RecordError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
                told = "the features in %s are damaged (%s) and are computed anew"
                log.warning(told, file, first_line(error))
                with suppress(OSError):
                    file.unlink()
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
