"""Measure what sites and modules cost at inference: against timm's own network, opened, attached and merged.

    python benchmarks/inference.py [--backbone vit_tiny_patch16_224 --image-size 224]

Each line is the time of a batch divided by that of timm's network, unopened, in the same process; the two
take turns and the median of the pairs is given. ``attn.logits`` and ``attn.probs`` carry a branch that
changes nothing, which makes every block compute its attention matrix explicitly, not by the fused kernel.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Switch
from clbench.evaluate.timing import ratio_of_times

MODULES = {
    "prefix, compensated, every block": ("prefix", {"num_blocks": 12}),
    "prefix, plain, every block": ("prefix", {"compensated": False}),
    **{
        f"{name}": (name, {})
        for name in ("lora-qv", "fact-tk", "bone", "ssf", "repadapter", "ia3", "bi-lora")
    },
    **{f"{name}": (name, {}) for name in ("adaptformer", "convpass", "vpt-deep")},
}


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    plain = timm.create_model(options.backbone, num_classes=0, img_size=options.image_size).eval()
    made = BackboneOptions(weights="none", image_size=options.image_size)
    backbone = backbones.create(options.backbone, made)
    print(
        f"{options.backbone}, {options.image_size} px, {options.batch_size} images, {options.rounds} rounds"
    )

    def told(what: str) -> None:
        print(f"{what:42s} {ratio(backbone, plain, images, options.rounds):.3f}x", flush=True)

    told("opened, nothing attached")
    for site in ("attn.logits", "attn.probs"):
        remove = observe(backbone, site)
        told(f"explicit attention ({site})")
        remove()
    for label, (name, chosen) in MODULES.items():
        module = petl.attach(backbone, name, **chosen)
        told(label)
        if module.petl.mergeable:
            module.merge()
            told(f"{label}, merged")
        module.detach()


def observe(backbone: Backbone, site: str) -> Callable[[], None]:
    """Attach a branch that changes nothing to a site of every block; return what removes it."""
    switch = Switch()
    for block in backbone.blocks:
        block[site].attached.append((switch, Branch()))

    def remove() -> None:
        for block in backbone.blocks:
            block[site].attached.clear()

    return remove


@torch.inference_mode()
def ratio(ours: nn.Module, plain: nn.Module, images: Tensor, rounds: int) -> float:
    """Return the time of a batch by that of timm's network."""
    return ratio_of_times(
        lambda: float(ours(images).sum()), lambda: float(plain(images).sum()), rounds=rounds
    )


if __name__ == "__main__":
    main()
