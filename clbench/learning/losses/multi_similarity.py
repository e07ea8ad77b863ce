"""Pull embeddings of one class together and push those of different classes apart, pair by pair.

X. Wang, X. Han, W. Huang, D. Dong, M. R. Scott, "Multi-Similarity Loss with General Pair Weighting for Deep
Metric Learning", CVPR 2019, arXiv 1904.06627.

Shapes: B batch, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.learning.losses.precision import cosines


def multi_similarity(
    embedding_BD: Tensor,
    labels: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    threshold: float = 1.0,
    margin: float | None = None,
) -> Tensor:
    """Return the mean over anchors; an anchor without positives (negatives) adds 0 to that part.

    Args:
        embedding_BD: Embeddings of any length; they are normalised here.
        labels: Class numbers (B,).
        alpha: Sharpness among positives, > 0.
        beta: Sharpness among negatives, > 0.
        threshold: The similarity that the pairs are compared with (lambda in the paper).
        margin: Of the pair mining; None: every pair counts. An anchor that lacks positives or negatives then
            has no pair at all.
    """
    similarity_BB = cosines(embedding_BD, embedding_BD)
    is_same = labels[:, None] == labels
    is_positive = is_same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    is_negative = ~is_same
    if margin is not None:
        is_positive, is_negative = _mined(similarity_BB.detach(), is_positive, is_negative, margin)
    pull = _log_one_plus_sum_exp(-alpha * (similarity_BB - threshold), is_positive) / alpha
    push = _log_one_plus_sum_exp(beta * (similarity_BB - threshold), is_negative) / beta
    return (pull + push).mean()


def _mined(
    similarity_BB: Tensor, is_positive: Tensor, is_negative: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """Keep negatives nearer than the farthest positive, and positives farther than the nearest negative."""
    farthest_positive = similarity_BB.masked_fill(~is_positive, torch.inf).amin(dim=1, keepdim=True)
    nearest_negative = similarity_BB.masked_fill(~is_negative, -torch.inf).amax(dim=1, keepdim=True)
    return (
        is_positive & (similarity_BB - margin < nearest_negative),
        is_negative & (similarity_BB + margin > farthest_positive),
    )


def _log_one_plus_sum_exp(exponent_BB: Tensor, is_counted: Tensor) -> Tensor:
    """Return log(1 + sum over the pairs that count of exp(exponent)), row by row."""
    return F.pad(exponent_BB.masked_fill(~is_counted, -torch.inf), (1, 0)).logsumexp(dim=1)
