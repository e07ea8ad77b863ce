"""Show that every module keeps the contract on every family of backbones, or says why it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.deit import VisionTransformerDistilled
from timm.models.resnet import BasicBlock
from torch import nn

from clbench import petl
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.errors import UserError
from clbench.testing.petl_contract import check_petl


def mobilenet(num_classes: int) -> nn.Module:
    """A MobileNet of three blocks, the last of which keeps the shape of its input."""
    stages = decode_arch_def([["ds_r1_k3_s1_c64"], ["ir_r2_k3_s2_e1_c64"]])
    return timm.models.EfficientNet(stages, num_classes, num_features=64)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "vit with average pooling": partial(
        timm.models.VisionTransformer, 16, 8, embed_dim=64, depth=2, num_heads=2, global_pool="avg"
    ),
    "deit with distillation token": partial(
        VisionTransformerDistilled, img_size=16, patch_size=8, embed_dim=64, depth=2, num_heads=2
    ),
    "swin": partial(
        timm.models.SwinTransformer, 32, 4, window_size=4, embed_dim=64, depths=(2, 1), num_heads=(2, 4)
    ),
    "convnext": partial(timm.models.ConvNeXt, depths=(1, 1, 1, 1), dims=(64, 64, 64, 64)),
    "resnet": partial(timm.models.ResNet, BasicBlock, (1, 1, 1, 1), channels=(64, 64, 64, 64)),
    "mobilenet": mobilenet,
}

# All of peft attach in one way, so that one of them is enough for the quick tests.
QUICK = [name for name in petl.names() if not name.startswith("peft.") or name == "peft.lora"]
MODULES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in petl.names()]


def small(family: str) -> Backbone:
    """A small network of the family, its weights far from the near-zeros they start with."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FAMILIES[family](num_classes=0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.rand_like(parameter))
    size = 16 if "vit" in family or "deit" in family else 32
    images = Preprocessing(size, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")
    return open_model(family, model, images, source="", digest="")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_module_keeps_the_contract_or_says_why_it_does_not_fit(family: str, name: str) -> None:
    backbone = small(family)
    try:
        check_petl(petl.get(name)(), backbone)
    except UserError as refusal:
        reason = str(refusal)
    else:
        return
    assert "\n" not in reason
    assert 20 < len(reason) < 250
    assert not any(site.attached for site in backbone.sites.values())
