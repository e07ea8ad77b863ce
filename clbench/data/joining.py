"""Join whole collections into one, each of them a task with classes of its own."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clbench.data.cache import Decoding, cached
from clbench.data.fitting import fitted
from clbench.data.samples import Samples
from clbench.data.tasks import Source

CHUNK = 4096  # images


def join_sources(
    name: str, sources: Mapping[str, Source], *, size: tuple[int, int], cache_dir: Path
) -> Source:
    """Return the union at one size, its classes called ``<key>: <class>``."""
    starts = np.cumsum([0, *(len(source.class_names) for source in sources.values())]).tolist()

    def decode() -> Decoding:
        parts = [[source.train for source in sources.values()], [source.test for source in sources.values()]]
        labels = [
            np.concatenate([part.labels + start for part, start in zip(of_kind, starts, strict=False)])
            for of_kind in parts
        ]
        return Decoding(
            height=size[0],
            width=size[1],
            train_labels=labels[0],
            test_labels=labels[1],
            class_names=[f"{key}: {each}" for key, source in sources.items() for each in source.class_names],
            chunks=(chunk for of_kind in parts for part in of_kind for chunk in _chunks(part, size)),
            tasks=[list(range(start, end)) for start, end in pairwise(starts)],
        )

    fingerprint = f"joined {size} {[(key, _checksum(source)) for key, source in sources.items()]}"
    joined = cached(name, cache_dir=cache_dir, fingerprint=fingerprint, decode=decode)
    notes = [f"{key}: {note}" for key, source in sources.items() for note in source.notes]
    return replace(joined, notes=notes)


def _checksum(source: Source) -> int:
    total = zlib.crc32(repr(source.class_names).encode())
    for part in (source.train, source.test):
        total = zlib.crc32(part.labels.tobytes(), total)
    return zlib.crc32(np.ascontiguousarray(source.train.images).data, total)


def _chunks(part: Samples, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(part), CHUNK):
        yield fitted(part.images[part.rows[start : start + CHUNK]], size)
