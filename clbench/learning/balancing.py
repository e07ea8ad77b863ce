"""Give every class an equal share of the places, one sample after another.

A. Prabhu, P. H. S. Torr, P. K. Dokania, "GDumb: A Simple Approach that Questions Our Progress in Continual
Learning", ECCV 2020.

Differs from the paper: a free place is always taken, and a sample enters a full memory only if its class is
smaller than the largest by two or more, so that places go neither unused nor back and forth.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rank_within(groups: Tensor) -> Tensor:
    """Return how many earlier elements are of the same group (numbered from 0), for each element."""
    order = groups.argsort(stable=True)
    sizes = groups.bincount()
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(groups), device=groups.device) - starts[groups[order]]
    return rank


def balanced(
    places: dict[int, list[int]], capacity: int, labels: list[int], draws: list[int]
) -> dict[int, int]:
    """Return which sample goes to which place: {place: index of the sample}.

    Args:
        places: The filled places of each class; they are changed.
        capacity: Number of places; the filled ones come first.
        labels: Class of each sample offered.
        draws: A large random number for each; it chooses the sample that gives way.
    """
    chosen = {}
    num_filled = sum(map(len, places.values()))
    largest = max(places.values(), key=len, default=[])
    for index, (label, draw) in enumerate(zip(labels, draws, strict=True)):
        own = places.setdefault(label, [])
        if num_filled < capacity:
            place = num_filled
            num_filled += 1
        elif len(own) + 1 < len(largest):
            victim = draw % len(largest)
            place, largest[victim] = largest[victim], largest[-1]
            largest.pop()
        else:
            continue
        own.append(place)
        chosen[place] = index
        largest = max(places.values(), key=len)
    return chosen
