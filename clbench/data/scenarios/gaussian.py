"""Let the mixture of classes drift: each class comes and goes like a Gaussian in time.

M. Shanahan, C. Kaplanis, J. Mitrovic, "Encoders and Ensembles for Task-Free Continual Learning", 2021,
arXiv 2105.13327. Task-free learning with fading tasks: S. Lee, J. Ha, D. Zhang, G. Kim, "A Neural Dirichlet
Process Mixture Model for Task-Free Continual Learning", ICLR 2020, arXiv 2001.00689.

Each image draws its time from the Gaussian around its class's peak, and all come in the order of their times
(our choice: each image is used exactly once). Peaks lie one apart, in the class order. The tasks are equal
segments of this flow and mean nothing to it; it is evaluated at their ends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clbench.data.orders import ClassCut
from clbench.seeds import Seeds


def gaussian(
    labels: NDArray[np.int64], classes: ClassCut, width: float, seeds: Seeds
) -> list[NDArray[np.int64]]:
    """Return the places of each segment's samples; ``width`` is the standard deviation."""
    time = np.empty(len(labels))
    for peak, number in enumerate(classes.order):
        places = np.flatnonzero(labels == number)
        time[places] = seeds.numpy("gaussian", number).normal(peak, width, size=len(places))
    return np.array_split(np.argsort(time, kind="stable"), classes.num_tasks)
