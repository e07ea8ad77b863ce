"""Choose how a product with a low-bit weight is computed here: in the way that is the quickest.

Which one that is depends on the weight, on how many tokens it is multiplied with, and on the machine: each
way is timed once for a kind of weight, and what was found is kept in a file of the user's cache. A way is
pinned by ``CLBENCH_KERNELS=SET:WAY``, such as ``avx512:look-up``.

Ways do not round alike: tables and activations have eight bits each, but not the same ones. What a network
says differs a little between them.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from platformdirs import user_cache_path
from torch import Tensor

from clbench.devices import processor_name
from clbench.files import WriteError, make_folder, write_text
from clbench.quant.kernels import torch_operator
from clbench.quant.kernels.kernel_layer import KernelLayer, Way
from clbench.quant.kernels.library import FILE, pinned

BUCKETS = (1, 8, 64)  # tokens at most, of each bucket but the last one
TIMED_WITH = (1, 4, 32, 200)  # tokens
ROUNDS, LEAST = 7, 2e-4  # rounds, and seconds of each of them at least


def product(layer: KernelLayer, inputs: Tensor, bias: Tensor | None) -> Tensor:
    """Return x w^T + bias, (..., M), of inputs x (..., K) and a bias (M,), both float32 on the CPU."""
    return torch_operator.product(layer, inputs, bias, way_of(layer, inputs.numel() // layer.columns))


def way_of(layer: KernelLayer, tokens: int) -> Way:
    """Return the way in which so many tokens are to be multiplied with a weight."""
    bucket = bisect_left(BUCKETS, tokens)
    if bucket not in layer.ways_known:
        name = pinned()
        layer.ways_known[bucket] = _pinned(layer, name) if name else _known().way(layer, bucket)
    return layer.ways_known[bucket]


def _pinned(layer: KernelLayer, name: str) -> Way:
    """Return the way of a name, or torch's where there is no such way for this weight."""
    way = Way[name.upper().replace("-", "_")]
    return way if way in layer.ways() else Way.EXPANDED


class Ways:
    """What was found to be the quickest on this machine; ``file`` keeps it."""

    def __init__(self, file: Path) -> None:
        """Read what is known."""
        self._file = file
        self._known = self._read()

    def way(self, layer: KernelLayer, bucket: int) -> Way:
        """Return the quickest way for a bucket of tokens, timed now if it is not known.

        It is the same for any number of threads, so that these do not change what a network says.
        """
        key = f"{layer.kernels}, {layer.described}, {TIMED_WITH[bucket]} tokens"
        if key not in self._known:
            # in a thread of its own, where nobody counts operations
            with ThreadPoolExecutor(1) as alone:
                found = alone.submit(quickest, layer, TIMED_WITH[bucket]).result().name
            self._known = {key: found, **self._read()}  # another process may have been the first
            with suppress(WriteError):  # then it is timed again by the next process
                make_folder(self._file.parent)
                write_text(self._file, json.dumps(self._known, indent=1, sort_keys=True))
        return Way[self._known[key]]

    def _read(self) -> dict[str, str]:
        """Return what the file holds; one that cannot be read is as good as none."""
        with suppress(OSError, ValueError):
            held = json.loads(self._file.read_text(encoding="utf-8"))
            if isinstance(held, dict):
                return {key: str(way) for key, way in held.items() if str(way) in Way.__members__}
        return {}


def quickest(layer: KernelLayer, tokens: int) -> Way:
    """Time all ways to multiply so many tokens, in turns; of each the least counts: others only add to it."""
    inputs = torch.randn(tokens, layer.columns, generator=torch.Generator().manual_seed(0))
    ways = [*layer.ways(), Way.EXPANDED]
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            seconds[way].append(_timed(layer.product, inputs, way))
    return min(ways, key=lambda way: min(seconds[way]))


def _timed(product: Callable[[Tensor, None, Way], Tensor], inputs: Tensor, way: Way) -> float:
    """Return the seconds of a product, which is repeated until they can be told."""
    number, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < LEAST or not number:
        product(inputs, None, way)
        number += 1
    return taken / number


@cache
def _known() -> Ways:
    """Return what is known of this processor, these kernels and this torch."""
    import hashlib

    about = f"{processor_name()} {torch.__version__} {hashlib.sha256(FILE.read_bytes()).hexdigest()}"
    name = hashlib.sha256(about.encode()).hexdigest()[:16]
    return Ways(user_cache_path("clbench") / "kernels" / f"{name}.json")
