"""Multiply by weights of few bits: our kernels against torch in float32 and against other libraries.

    python benchmarks/low_bit.py [--threads 1] [--shapes 768x3072] [--tokens 1 16 197]

A weight of each kind is held so often that it comes from memory when its turn is: the copies take turns, as
the kinds do, and medians are given. ``speed`` is that of torch in float32, and ``error`` how far products are
from those in float32, relative to them. Peers that are not installed, or have no such weight, are named with
the reason. ``CLBENCH_KERNELS`` chooses the instruction set.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from low_bit_peers import GROUP, PEERS, NoSuchWeight, Product
from tables import Row, as_csv
from torch import Tensor
from torch.nn import functional as F

from clbench.files import write_text
from clbench.quant.kernels import library
from clbench.quant.kernels.kernel_layer import KernelLayer, Way
from clbench.quant.kernels.ways import product
from clbench.quant.rtn import RoundToNearest

BITS = (1, 2, 3, 4, 8)
SHAPES = ("192x768", "768x3072", "4096x4096")  # columns x rows
TOKENS = (1, 16, 197)
AT_REST = 0.005  # seconds, in which threads of the library before go to sleep
SLOW = 0.05  # seconds of a product that is not measured again
IN_MEMORY = 100e6  # bytes that the copies of a weight in float32 take, at least


def main() -> None:
    """Print and write a row for each shape, kind and number of tokens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--tokens", nargs="*", type=int, default=TOKENS)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("low_bit.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for shape in options.shapes:
        columns, height = map(int, shape.split("x"))
        copies = max(6, round(IN_MEMORY / (columns * height * 4)))
        random = torch.Generator().manual_seed(0)
        weights = [torch.randn(height, columns, generator=random) for _ in range(copies)]
        kinds = products(weights, options.peers)
        errors = {name: error(copies[0], weights[0]) for name, copies in kinds.items()}
        for tokens in options.tokens:
            inputs = torch.randn(tokens, columns, generator=random)
            seconds = timed(kinds, inputs, options.rounds)
            for name, median in seconds.items():
                row = {
                    "shape": shape,
                    "tokens": tokens,
                    "threads": options.threads,
                    "product": name,
                    "microseconds": round(median * 1e6, 1),
                    "speed": round(seconds["torch float32"] / median, 2),
                    "error": round(errors[name], 4),
                }
                rows.append(row)
                print(*row.values(), flush=True)
    write_text(options.out, as_csv(rows))


def products(weights: list[Tensor], peers: Iterable[str]) -> dict[str, list[Product]]:
    """Return the products with all copies of a weight, by their kinds."""
    kinds: dict[str, list[Product]] = {"torch float32": [partial(F.linear, weight=each) for each in weights]}
    for bits in BITS:
        name = library.kernels_for(bits)
        if name is None:
            continue
        quantiser = RoundToNearest(bits=bits, group=GROUP)
        stored = [quantiser.stored(weight) for weight in weights]
        layers = [KernelLayer(name, each.planes, each.scale, each.zero, each.columns) for each in stored]
        for way in layers[0].ways():
            label = f"{name} {way.name.lower().replace('_', ' ')}, {bits} bits"
            kinds[label] = [partial(_multiplied, layer, way) for layer in layers]
        kinds[f"chosen, {bits} bits"] = [partial(product, layer, bias=None) for layer in layers]
    for peer in peers:
        for bits in BITS:
            try:
                kinds[f"{peer}, {bits} bits"] = [PEERS[peer](weight, bits) for weight in weights]
                kinds[f"{peer}, {bits} bits"][0](torch.zeros(2, weights[0].shape[1]))
            except NoSuchWeight:
                continue
            except Exception as reason:  # whatever a library says when it cannot
                kinds.pop(f"{peer}, {bits} bits", None)
                print(f"{peer}, {bits} bits: {str(reason).splitlines()[0]}", flush=True)
    return kinds


def error(product: Product, weight: Tensor) -> float:
    """Return how far a product is from the one in float32, relative to it: what the bits and the way lose."""
    inputs = torch.randn(64, weight.shape[1], generator=torch.Generator().manual_seed(1))
    said, wanted = product(inputs), F.linear(inputs, weight)
    found = said if isinstance(said, Tensor) else torch.as_tensor(said[0])
    return float((found.float() - wanted).norm() / wanted.norm())


def _multiplied(layer: KernelLayer, way: Way, inputs: Tensor) -> Tensor:
    return layer.product(inputs, None, way)


def timed(kinds: dict[str, list[Product]], inputs: Tensor, rounds: int) -> dict[str, float]:
    """Return the median seconds of each kind; kinds take turns, and so do the copies of a weight."""
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name, copies in kinds.items():
            if number > 1 and statistics.median(seconds[name]) > SLOW:
                continue
            time.sleep(AT_REST)
            for each in copies:
                taken = _seconds(partial(each, inputs))
                if number:  # the first round warms up
                    seconds[name].append(taken)
    return {name: statistics.median(each) for name, each in seconds.items()}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
