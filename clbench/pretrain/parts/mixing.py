"""Mix the images of a batch in pairs, as DeiT does: mixup or cutmix, one of both drawn for each batch.

H. Zhang et al., "mixup", ICLR 2018, arXiv 1710.09412; S. Yun et al., "CutMix", ICCV 2019, arXiv 1905.04899;
with the Beta distributions of H. Touvron et al., "DeiT", ICML 2021, arXiv 2012.12877.
"""

from __future__ import annotations

import torch
from timm.data import Mixup
from torch import Tensor

from clbench.seeds import forked_everywhere

MIXUP, CUTMIX = 0.8, 1.0


def mixed(images: Tensor, seed: int) -> Tensor:
    """Return images (B, 3, S, S) mixed, in place; of an odd number the last is left out."""
    images = images[: len(images) - len(images) % 2]
    mix = Mixup(mixup_alpha=MIXUP, cutmix_alpha=CUTMIX, num_classes=1)
    no_labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    with forked_everywhere(seed):  # timm draws from numpy's own generator
        both: Tensor = mix(images, no_labels)[0]
    return both
