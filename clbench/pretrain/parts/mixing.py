"""Mix the images of a batch in pairs, as DeiT does: mixup or cutmix, one of both drawn for each batch.

H. Zhang et al., "mixup", ICLR 2018, arXiv 1710.09412; S. Yun et al., "CutMix", ICCV 2019, arXiv 1905.04899;
with the Beta distributions of H. Touvron et al., "DeiT", ICML 2021, arXiv 2012.12877.
"""

from __future__ import annotations

import torch
from timm.data import Mixup
from torch import Tensor

from clbench.seeds import forked_everywhere

MIXUP, CUTMIX = 0.8, 1.0  # DeiT's


def mixed(
    images: Tensor, seed: int, *, mixup: float = MIXUP, cutmix: float = CUTMIX
) -> tuple[Tensor, Tensor]:
    """Return images (B, 3, S, S) mixed, in place, and the share (B, B) that each has in each.

    Of an odd number the last is left out. ``mixup`` and ``cutmix`` are the Beta distributions' parameters, in
    (0, inf); 0: that one is never drawn.
    """
    images = images[: len(images) - len(images) % 2]
    own = torch.arange(len(images), device=images.device)
    # timm mixes labels, too: of labels that are all different it makes what each image is made of
    mix = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=len(images))
    with forked_everywhere(seed):  # timm draws from numpy's own generator
        both: Tensor
        shares: Tensor
        both, shares = mix(images, own)
    return both, shares
