"""Replace a share of the training labels by wrong ones.

Symmetric and pair noise: B. Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely
Noisy Labels", NeurIPS 2018, arXiv 1804.06872. A wrong label is one of another class of the same task, so that
no class appears early (our choice).
"""

from __future__ import annotations

import numpy as np

from clbench.data.orders import ProtocolError
from clbench.data.samples import Samples
from clbench.data.shares import all_but_one
from clbench.seeds import Seeds


def mislabel(
    samples: Samples, rate: float, *, is_pair: bool, order: list[int], task: int, seeds: Seeds
) -> Samples:
    """Replace the rounded share of each class's labels, but never the last.

    Pair: by the next of the task's classes in the class order, after the last by the first. Symmetric: by any
    other, each as likely.
    """
    present = set(samples.labels.tolist())
    classes = np.array([number for number in order if number in present])
    if len(classes) < 2:
        raise ProtocolError(
            f"stream.label_noise: task {task + 1} has one class only, so that no label can be wrong"
        )
    labels = samples.labels.copy()
    for place, number in enumerate(classes.tolist()):
        random = seeds.numpy("label-noise", task, number)
        own = random.permutation(np.flatnonzero(samples.labels == number))
        wrong = own[: all_but_one(rate, len(own))]
        steps = 1 if is_pair else random.integers(1, len(classes), size=len(wrong))
        labels[wrong] = classes[(place + steps) % len(classes)]
    return Samples(samples.images, samples.rows, labels)
