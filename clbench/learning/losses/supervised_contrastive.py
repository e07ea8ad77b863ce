"""Make every image's nearest neighbours in the batch those of its own class (SupCon).

P. Khosla, P. Teterwak, C. Wang, A. Sarna, Y. Tian, P. Isola, A. Maschinot, C. Liu, D. Krishnan, "Supervised
Contrastive Learning", NeurIPS 2020, arXiv 2004.11362. In continual learning: Z. Mai, R. Li, H. Kim,
S. Sanner, "Supervised Contrastive Replay", CVPR Workshops 2021, arXiv 2103.13885.

The factor temperature / base temperature of the released code is left out, as in the paper.
Shapes: B batch (all views of all images), D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.learning.losses.precision import cosines


def supervised_contrastive(embedding_BD: Tensor, labels: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Return L_out (Eq. 2), the mean over anchors; an anchor without positives adds 0.

    Args:
        embedding_BD: Embeddings of any length, the views of an image being rows of their own; they are
            normalised here.
        labels: Class numbers (B,).
        temperature: Divides the cosines, > 0.
    """
    is_self = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    logits_BB = (cosines(embedding_BD, embedding_BD) / temperature).masked_fill(is_self, -torch.inf)
    is_positive = (labels[:, None] == labels) & ~is_self
    num_positives = is_positive.sum(dim=1).clamp(min=1)
    log_probability_BB = logits_BB.log_softmax(dim=1).masked_fill(~is_positive, 0)
    return -(log_probability_BB.sum(dim=1) / num_positives).mean()
