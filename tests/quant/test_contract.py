"""Every quantiser of the registry keeps the contract, on every family of backbones."""

from __future__ import annotations

import pytest
import torch
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from clbench import quant
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.errors import UserError
from clbench.seeds import forked
from clbench.testing import check_quant

IMAGES = 4  # to calibrate on: as many as it takes to compute something
SEARCHING = ("adalog", "twin")  # for seconds
FAMILIES = ("swin", "convnext", "resnet")


def few_images(name: str) -> quant.Quantiser:
    """The quantiser of a name, on few images if it looks at any."""
    kind = quant.get(name)
    return kind(images=IMAGES) if kind().num_images else kind()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SEARCHING else []) for name in quant.names()],
)
def test_it_keeps_the_contract(name: str) -> None:
    check_quant(few_images(name), small("vit"))


@pytest.mark.slow
@pytest.mark.parametrize("name", quant.names())
def test_it_keeps_the_contract_on_the_backbone_that_is_checked_with(name: str) -> None:
    check_quant(few_images(name))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", quant.names())
def test_it_keeps_the_contract_on_other_families(name: str, family: str) -> None:
    if family == "resnet" and name.startswith("torchao."):
        with pytest.raises(UserError, match="linear"):  # it has convolutions alone
            check_quant(few_images(name), small(family))
        return
    check_quant(few_images(name), small(family))


def small(family: str) -> Backbone:
    """A small network of a family, with random weights."""
    with forked(0):
        if family == "vit":
            sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
            model = VisionTransformer(num_classes=0, **sizes)
        elif family == "swin":
            sizes = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 4)}
            model = SwinTransformer(num_classes=0, **sizes)
        elif family == "convnext":
            model = ConvNeXt(num_classes=0, depths=(1, 1, 1, 1), dims=(8, 16, 16, 16))
        else:
            model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, channels=(8, 16, 16, 16), stem_width=8)
        with torch.no_grad():  # timm starts some norms at 0, which lets nothing through
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.rand_like(parameter))
    half = (0.5, 0.5, 0.5)
    images = Preprocessing(32 if family == "vit" else 64, half, half, 1.0, "bilinear")
    return open_model(family, model, images, source="random", digest="0")
