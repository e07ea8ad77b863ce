"""How networks are divided: the published counts, and that parts put together again are the whole."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Preprocessing
from clbench.backbones.creation import open_model
from clbench.pretrain.parts.division import (
    Division,
    DivisionError,
    cut_to,
    division_of,
    names_of_modules,
)
from clbench.pretrain.parts.drop_path import drop_rates
from clbench.pretrain.parts.network import Network

# width, depth, heads, patch size, bias of qkv: the official networks; parameters with 1,000 classes of the
# whole, the meta model, any hybrid, the first module, one in the middle and the last (section 3)
B = (768, 12, 12, 16, True), (86_567_656, 29_864_680, 44_040_424, 22_006_272, 21_263_616, 22_034_152)
L = (1024, 24, 16, 16, True), (304_326_632, 52_402_152, 115_383_272, 76_567_552, 75_577_344, 76_604_392)
H = (1280, 32, 16, 14, False), (631_922_920, 81_062_120, 218_777_320, 158_472_960, 157_388_800, 158_672_360)


def vit(width: int, depth: int, heads: int, patch: int, qkv_bias: bool) -> Network:
    """A Vision Transformer whose tensors have shapes and no values."""
    with torch.device("meta"):
        model = VisionTransformer(
            patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, qkv_bias=qkv_bias, num_classes=0
        )
    images = Preprocessing(224, (0.5,) * 3, (0.5,) * 3, 1.0, "bicubic")
    return Network(open_model("vit", model, images, source="random", digest=""), 1000, seed=0)


def micro(name: str = "vit-micro", seed: int = 0) -> Network:
    return Network(backbones.create(name, BackboneOptions(weights="none"), seed=seed), 7, seed)


def count(network: Network, names: list[str]) -> int:
    named = network.named()
    return sum(named[name].numel() for name in names if isinstance(named[name], nn.Parameter))


@pytest.mark.parametrize(("shape", "counts"), [B, L, H], ids=["B", "L", "H"])
def test_the_counts_are_the_published_ones(shape: tuple[int, ...], counts: tuple[int, ...]) -> None:
    target, meta, hybrid, *modules = counts
    network = vit(*shape)
    division = Division((shape[1] // 4,) * 4)
    names = names_of_modules(network, division)
    assert [count(network, own) for own in names] == [modules[0], modules[1], modules[1], modules[2]]
    assert count(network, list(network.named())) == target
    for place in range(4):
        other = vit(*shape)
        cut_to(other, division, division.hybrid(place, 1))
        assert count(other, list(other.named())) == hybrid
    cut_to(network, division, division.small(1))
    assert count(network, list(network.named())) == meta


@pytest.mark.parametrize("name", ["vit-micro", "resnet18", "resnet20", "swin_tiny_patch4_window7_224"])
def test_modules_of_one_network_put_together_are_that_network(name: str) -> None:
    size = 224 if "swin" in name else 32
    first, other = micro(name), micro(name, seed=1)
    division = division_of(first.backbone, "", 0, 1)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    first.set_training(False)
    other.set_training(False)
    expected = first(images)
    names = names_of_modules(first, division)
    assert sorted(each for own in names for each in own) == sorted(first.tensors())
    assert not torch.equal(other(images), expected)
    for own in names:
        tensors = first.tensors()
        other.take({each: tensors[each] for each in own})
    assert torch.equal(other(images), expected)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        (
            "vit-micro",
            {"patch_embed.stem.0.0.weight", "patch_embed.stem.4.1.running_var", "pos_embed", "cls_token"},
            {"norm.weight", "norm.bias", "head.weight", "head.bias"},
        ),
        ("resnet20", {"conv1.weight", "bn1.weight", "bn1.running_mean"}, {"fc.weight", "fc.bias"}),
    ],
)
def test_the_ends_belong_to_the_first_and_the_last_module(name: str, first: set[str], last: set[str]) -> None:
    network = micro(name)
    names = names_of_modules(network, division_of(network.backbone, "", 0, 1))
    assert first <= set(names[0])
    assert last <= set(names[-1])


def test_a_module_that_is_the_meta_models_makes_the_hybrid_the_meta_model() -> None:
    division = Division((1, 2, 1))
    meta, hybrid = micro(), micro(seed=1)
    cut_to(meta, division, division.small(1))
    cut_to(hybrid, division, division.hybrid(1, 1))
    names = names_of_modules(hybrid, division)
    hybrid.take(meta.tensors())
    for block in hybrid.backbone.blocks[2:3]:  # what the module has more than the meta model's adds nothing
        for part in (block["attn.proj"], block["mlp.fc2"]):
            nn.init.zeros_(part.layer.weight)
            nn.init.zeros_(part.layer.bias)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert len(names[1]) == 2 * 12
    meta.set_training(False)
    hybrid.set_training(False)
    assert torch.equal(meta(images), hybrid(images))


def test_depths_of_the_paper() -> None:
    division = Division((3, 3, 3, 3))
    assert division.small(1) == (1, 1, 1, 1)
    assert [division.hybrid(module, 1) for module in range(4)] == [
        (3, 1, 1, 1),
        (1, 3, 1, 1),
        (1, 1, 3, 1),
        (1, 1, 1, 3),
    ]
    assert division.blocks == [range(3), range(3, 6), range(6, 9), range(9, 12)]
    assert drop_rates(6, 0.1) == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])  # a hybrid
    assert drop_rates(4, 0.1) == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])  # the meta model
    assert drop_rates(1, 0.1) == [0]


@pytest.mark.parametrize(
    ("name", "modules", "depths"),
    [
        ("vit-micro", 0, (1, 1, 1, 1)),
        ("vit-micro", 3, (1, 1, 2)),
        ("vit-micro", 1, (4,)),
        ("resnet18", 0, (2, 2, 2, 2)),
        ("resnet50", 0, (3, 4, 6, 3)),
        ("resnet20", 0, (3, 3, 3)),
    ],
)
def test_a_network_is_divided_evenly_or_by_its_stages(
    name: str, modules: int, depths: tuple[int, ...]
) -> None:
    backbone = backbones.create(name, BackboneOptions(weights="none"))
    assert division_of(backbone, "", modules, 1).depths == depths


@pytest.mark.parametrize(
    ("name", "depths", "modules", "told"),
    [
        ("vit-micro", "2,1", 0, "2,1 are 3 blocks, of at least one a module, and this backbone has 4"),
        ("vit-micro", "4,0", 0, "4,0 are 4 blocks, of at least one a module"),
        ("vit-micro", "two", 0, "'two' are no numbers of blocks; write them as 2,2,2,2"),
        ("vit-micro", "", 7, "pretrain.modules: 7 is more than the 4 blocks of this backbone"),
        ("resnet18", "4,4", 0, "block 2 changes the shape of what goes in"),
    ],
)
def test_depths_that_do_not_fit_are_refused(name: str, depths: str, modules: int, told: str) -> None:
    backbone = backbones.create(name, BackboneOptions(weights="none"))
    with pytest.raises(DivisionError, match=told):
        division_of(backbone, depths, modules, 1)
