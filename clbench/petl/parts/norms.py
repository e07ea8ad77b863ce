"""Name the parameters of a backbone's normalisation layers, for modules that train them."""

from __future__ import annotations

from timm.layers import RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d
from torch import nn

from clbench.backbones.backbone import Backbone

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d)


def norm_parameters(backbone: Backbone) -> list[str]:
    """Return the names of every norm's scale and shift; a batch norm's statistics are not among them."""
    return [
        f"{path}.{name}"
        for path, module in backbone.own_modules()
        if isinstance(module, NORMS)
        for name, _ in module.named_parameters(recurse=False)
    ]
