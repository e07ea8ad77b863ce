"""Cluster rows into clusters of equal size: k-means that assigns all rows at once.

Each of the K clusters has N / K slots. A row in a slot costs the squared distance to the cluster's centre,
and the assignment step puts one row into every slot at the least total cost: a linear assignment problem. The
start is k-means++ (D. Arthur and S. Vassilvitskii, SODA 2007).

Shape letters: N rows, D width, K clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ITERATIONS = 20  # at most; a ViT's rows settle in about ten
TINY = 1e-12  # squared distance at least: equal rows can be drawn as centres, too


def balanced_kmeans(rows: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Return the cluster (N,) of each of the rows (N, D); ``num_clusters`` divides N.

    Rows without values, on the meta device, are dealt out in turn.
    """
    from scipy.optimize import linear_sum_assignment

    num_rows = len(rows)
    if rows.is_meta:
        return torch.arange(num_rows) % num_clusters
    row_ND = rows.detach().cpu().double()
    cluster_of_slot = torch.arange(num_rows) % num_clusters
    centre_KD = first_centres(row_ND, num_clusters, generator)
    labels = cluster_of_slot
    for _ in range(ITERATIONS):
        cost_NK = torch.cdist(row_ND, centre_KD).square()
        _, slots = linear_sum_assignment(cost_NK[:, cluster_of_slot].numpy())
        before, labels = labels, cluster_of_slot[torch.from_numpy(slots)]
        if torch.equal(labels, before):
            break
        member_KN = F.one_hot(labels, num_clusters).T.double()
        centre_KD = member_KN @ row_ND * (num_clusters / num_rows)
    return labels


def first_centres(row_ND: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Draw rows as centres (K, D), each with a chance that grows as its squared distance from those drawn."""
    chance_N = torch.ones(len(row_ND))
    chosen: list[Tensor] = []
    for _ in range(num_clusters):
        chosen.append(row_ND[torch.multinomial(chance_N, 1, generator=generator)])
        chance_N = torch.cdist(row_ND, torch.cat(chosen)).amin(dim=1).square().clamp_min(TINY)
    return torch.cat(chosen)
