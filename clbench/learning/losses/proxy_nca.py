"""Pull each embedding towards a learnt proxy of its class and away from the others' proxies.

Y. Movshovitz-Attias, A. Toshev, T. K. Leung, S. Ioffe, S. Singh, "No Fuss Distance Metric Learning using
Proxies", ICCV 2017, arXiv 1703.07464.

Differs from the paper:
- The proxy of the image's own class is in the denominator too, so that the loss is a cross-entropy.

On the unit sphere the squared distance is 2 - 2 cos, so a softmax over minus the squared distances is one of
2 cos. Shapes: B batch, K classes, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.learning.losses.precision import cosines


def proxy_nca(
    embedding_BD: Tensor,
    labels: Tensor,
    proxy_KD: Tensor,
    *,
    scale: float = 2.0,
    active: Literal["seen", "batch"] = "seen",
) -> Tensor:
    """Return the mean cross-entropy of ``scale`` times the cosines between embeddings and proxies.

    Args:
        embedding_BD: Embeddings of any length; they are normalised here, as are the proxies.
        labels: Class numbers (B,), which are rows of the proxies.
        proxy_KD: One proxy for each class seen.
        scale: Factor of the cosine, > 0.
        active: Which proxies compete: all ("seen") or those of the classes in the batch ("batch"); the others
            then have no gradient.
    """
    logits = scale * cosines(embedding_BD, proxy_KD)
    if active == "batch":
        is_absent = torch.ones(len(proxy_KD), dtype=torch.bool, device=labels.device)
        is_absent[labels] = False
        logits = logits.masked_fill(is_absent, -torch.inf)
    return F.cross_entropy(logits, labels)
