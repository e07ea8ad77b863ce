"""Make domains out of any collection: rotated, with permuted pixels, or corrupted.

Rotations: D. Lopez-Paz, M. Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017,
arXiv 1706.08840. Permutations: I. J. Goodfellow, M. Mirza, D. Xiao, A. Courville, Y. Bengio, "An Empirical
Investigation of Catastrophic Forgetting in Gradient-Based Neural Networks", 2013, arXiv 1312.6211.

The first domain holds the images as they are; each other one holds a transformed copy of every image, all in
one new array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from clbench.data.orders import EQUAL, ProtocolError
from clbench.data.samples import Samples
from clbench.data.scenarios.corruptions import CORRUPTIONS
from clbench.data.shares import Parts
from clbench.seeds import Seeds

Images = NDArray[np.uint8]  # (N, H, W, 3)
Transform = Callable[[Images], Images]
HALF_TURN = 180  # degrees
CHUNK = 256  # images transformed at once
MOST_BYTES = 16 << 30


@dataclass(frozen=True)
class Domain:
    """One way of seeing every image."""

    name: str
    transform: Transform


def rotations(num_domains: int, num_pixels: int, seeds: Seeds) -> list[Domain]:
    """Return equal steps from 0 to below 180 degrees."""
    angles = [HALF_TURN * index / num_domains for index in range(num_domains)]
    return [Domain(f"rotation {angle:g}", partial(rotated, angle=angle)) for angle in angles]


def permutations(num_domains: int, num_pixels: int, seeds: Seeds) -> list[Domain]:
    """Return a fixed permutation of the pixels a domain; the first changes nothing."""
    orders = [seeds.numpy("domains", index).permutation(num_pixels) for index in range(num_domains)]
    orders[0] = np.arange(num_pixels)
    return [
        Domain(f"permutation {index}", partial(permuted, order=order)) for index, order in enumerate(orders)
    ]


def corruptions(num_domains: int, num_pixels: int, seeds: Seeds) -> list[Domain]:
    """Return the images as they are, then a kind of corruption a domain."""
    kinds = list(CORRUPTIONS.items())[:num_domains]
    return [
        Domain(name, partial(corrupt, random=seeds.numpy("domains", index)))
        for index, (name, corrupt) in enumerate(kinds)
    ]


@dataclass(frozen=True)
class Kind:
    """A way of making domains."""

    make: Callable[[int, int, Seeds], list[Domain]]
    most: int | None = None  # domains; None: as many as wanted


KINDS = {
    "rotations": Kind(rotations),
    "permutations": Kind(permutations),
    "corruptions": Kind(corruptions, most=len(CORRUPTIONS)),
}


def make_domains(parts: Parts, kind: str, tasks: str, seeds: Seeds) -> tuple[list[str], list[Parts]]:
    """Return the names of the domains, and the parts of each: copies of the parts given, in one array."""
    num_domains = _count(tasks, kind)
    images = parts.train.images
    rows = np.concatenate([part.rows for part in (parts.train, parts.validation, parts.test)])
    needed = num_domains * len(rows) * images[:1].nbytes
    if needed > MOST_BYTES:
        raise ProtocolError(
            f"stream.domains: {num_domains} domains of {len(rows)} images take {needed / 2**30:.0f} GiB"
            f" (allowed: {MOST_BYTES >> 30}); lower stream.train_per_class and stream.test_per_class"
        )
    made = np.empty((num_domains * len(rows), *images.shape[1:]), dtype=np.uint8)
    domains = KINDS[kind].make(num_domains, images.shape[1] * images.shape[2], seeds)
    for index, domain in enumerate(domains):
        for start in range(0, len(rows), CHUNK):
            chunk = images[rows[start : start + CHUNK]]
            first = index * len(rows) + start
            made[first : first + len(chunk)] = domain.transform(chunk)
    return [domain.name for domain in domains], [
        _moved(parts, made, index * len(rows)) for index in range(num_domains)
    ]


def rotated(images: Images, angle: float) -> Images:
    """Turn images counter-clockwise about their centres; what comes in at the corners is black."""
    from torchvision.transforms.v2.functional import InterpolationMode, rotate

    turned = rotate(torch.from_numpy(images).permute(0, 3, 1, 2), angle, InterpolationMode.BILINEAR)
    back: Images = turned.permute(0, 2, 3, 1).numpy()
    return back


def permuted(images: Images, order: NDArray[np.int64]) -> Images:
    """Put the pixel ``order[i]`` at place i; the colours of a pixel stay together."""
    return images.reshape(len(images), -1, 3).take(order, axis=1).reshape(images.shape)


def _count(tasks: str, kind: str) -> int:
    """Read the number of domains off the spelling of a number of tasks."""
    most = KINDS[kind].most
    spelt = EQUAL.fullmatch(tasks.strip())
    if spelt and int(spelt[1]) >= 1 and (most is None or int(spelt[1]) <= most):
        return int(spelt[1])
    allowed = "a number from 1 on" if most is None else f"1 to {most}"
    near = most if most is not None and spelt and int(spelt[1]) > most else 5
    raise ProtocolError(
        f"stream.tasks: {tasks!r} is no number of {kind} to make (allowed: {allowed});"
        f" try stream.tasks={near}"
    )


def _moved(parts: Parts, made: Images, first: int) -> Parts:
    """Return parts whose images follow each other in the new array from row ``first`` on."""
    moved = []
    for part in (parts.train, parts.validation, parts.test):
        moved.append(Samples(made, np.arange(first, first + len(part)), part.labels))
        first += len(part)
    return Parts(*moved)
