"""Give classes fewer and fewer training images: a long tail.

X. Liu, Y.-S. Hu, X.-S. Cao, A. D. Bagdanov, K. Li, M.-M. Cheng, "Long-Tailed Class Incremental Learning",
ECCV 2022, arXiv 2210.00266. Its two scenarios: the sizes fall along the class order (ordered), or in an order
of their own (shuffled).
"""

from __future__ import annotations

import numpy as np

from clbench.data.samples import Samples
from clbench.data.shares import draw
from clbench.seeds import Seeds


def long_tail(
    samples: Samples, order: list[int], imbalance: float, is_shuffled: bool, seeds: Seeds
) -> Samples:
    """Keep of the class at place c the rounded n_max * imbalance ** (c / (C - 1)) samples, at least one."""
    largest = int(np.bincount(samples.labels).max())
    falling = seeds.numpy("long-tail-order").permutation(order) if is_shuffled else np.array(order)
    place = np.argsort(falling) / max(1, len(order) - 1)
    most = np.maximum(1, np.rint(largest * imbalance**place)).astype(int).tolist()
    kept = draw(
        samples.labels,
        lambda number, count: min(count, most[number]),
        lambda number: seeds.numpy("long-tail", number),
    )
    return samples.select(kept)
