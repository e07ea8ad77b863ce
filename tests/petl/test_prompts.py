"""Show that visual prompts and plain prefixes are the formulas of their papers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.backbones.sites import Branch, NoSuchSiteError, Switch
from clbench.petl.attached import Attached


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vit_micro() -> Backbone:
    return backbones.create("vit-micro", BackboneOptions(weights="none"))


def opened(model: nn.Module, size: int = 32) -> Backbone:
    unit = (1.0, 1.0, 1.0)
    return open_model("small", model, Preprocessing(size, unit, unit, 1.0, "bilinear"), source="", digest="")


def attach(name: str, backbone: Backbone, seed: int = 0, **options: int) -> Attached:
    return petl.get(name)(**options).attach(backbone, generator(seed))


def images(number: int = 2) -> Tensor:
    return torch.randn(number, 3, 32, 32, generator=generator(7))


class Recorder(Branch):
    """Keeps the shapes that a site sees."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        self.shapes.append(tuple(output.shape))
        return output


@pytest.mark.parametrize(
    ("module", "options", "parameters"),
    [
        ("vpt-shallow", {"length": 50}, 38_400),
        ("vpt-deep", {"length": 50}, 460_800),
        ("prefix", {"compensated": False}, 184_320),
        ("prefix", {"compensated": False, "num_blocks": 5}, 76_800),
    ],
)
@pytest.mark.parametrize("network", ["vit_base_patch16_224", "deit_base_distilled_patch16_224"])
def test_parameter_counts_are_those_of_the_papers(
    unallocated: Callable[[str], Backbone],
    module: str,
    options: dict[str, int],
    parameters: int,
    network: str,
) -> None:
    assert attach(module, unallocated(network), **options).num_parameters == parameters


def test_prompts_fill_the_xavier_range_of_the_patch_embedding() -> None:
    attached = attach("vpt-deep", vit_micro())
    values = torch.cat([parameter.flatten() for parameter in attached.parameters()])
    bound = math.sqrt(6 / (256 + 128))  # what patches are made of: 256 channels; width 128
    assert values.abs().max() < bound
    assert values.abs().max() > 0.999 * bound
    assert values.mean().abs() < 0.03 * bound  # the mean of 5,120 draws has a standard deviation of 0.008


def embedded(backbone: Backbone) -> Tensor:
    """The tokens that the first block gets."""
    model = backbone.model
    return model.norm_pre(model._pos_embed(model.patch_embed(images())))


def test_shallow_prompts_pass_through_all_blocks_between_class_token_and_patches() -> None:
    backbone = vit_micro()
    attached = attach("vpt-shallow", backbone, length=3)
    features = backbone(images())
    attached.enabled = False
    prompts = attached.branches[0].prompts.expand(2, -1, -1)
    tokens = embedded(backbone)
    tokens = torch.cat((tokens[:, :1], prompts, tokens[:, 1:]), dim=1)
    for block in backbone.model.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(features, backbone.model.norm(tokens)[:, 0])


def test_deep_prompts_are_slots_overwritten_before_every_block() -> None:
    backbone = vit_micro()
    attached = attach("vpt-deep", backbone, length=3)
    features = backbone(images())
    attached.enabled = False
    tokens = embedded(backbone)
    tokens = torch.cat((tokens[:, :1], torch.zeros(2, 3, 128), tokens[:, 1:]), dim=1)
    for block, insertion in zip(backbone.model.blocks, attached.branches[::2], strict=True):
        tokens = tokens.clone()
        tokens[:, 1:4] = insertion.prompts
        tokens = block(tokens)
    torch.testing.assert_close(features, backbone.model.norm(tokens)[:, 0])


def test_two_sets_of_prompts_on_one_backbone_are_one_set_of_both() -> None:
    backbone = vit_micro()
    pair = [attach("vpt-deep", backbone, seed=1, length=3), attach("vpt-deep", backbone, seed=2, length=2)]
    features = backbone(images())
    for module in pair:
        module.enabled = False
    both = attach("vpt-deep", backbone, length=5)
    with torch.no_grad():
        for whole, *parts in zip(*(module.parameters() for module in (both, *pair)), strict=True):
            whole.copy_(torch.cat(parts))
    torch.testing.assert_close(backbone(images()), features, atol=1e-5, rtol=1e-5)  # in another order


@pytest.mark.parametrize("name", ["vpt-shallow", "vpt-deep"])
def test_prompts_stand_behind_every_prefix_token_and_are_not_pooled(name: str) -> None:
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0}
    distilled = timm.models.deit.VisionTransformerDistilled(**options)
    averaged = timm.models.VisionTransformer(**options, class_token=False, global_pool="avg")
    for backbone, num_prefix in ((opened(distilled), 2), (opened(averaged), 0)):
        inside, outside = Recorder(), Recorder()
        backbone.site("block[1].attn").attached.append((Switch(), inside))
        attached = attach(name, backbone, length=4)
        backbone.site("block[2]").attached.append((Switch(), outside))
        assert attached.branches[0].num_prefix == num_prefix
        assert backbone(images()).shape == (2, 16)
        assert inside.shapes == [(2, num_prefix + 4 + 16, 16)]
        assert outside.shapes == [(2, num_prefix + 16, 16)]


@pytest.mark.parametrize("name", ["vpt-shallow", "vpt-deep"])
def test_prompts_are_refused_where_blocks_see_maps(name: str) -> None:
    swin = timm.models.SwinTransformer(
        32, 4, window_size=4, embed_dim=16, depths=(2,), num_heads=(2,), num_classes=0
    )
    convnext = timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=0)
    resnet = backbones.create("slim-resnet18", BackboneOptions(weights="none"))
    for backbone in (opened(swin), opened(convnext), resnet):
        with pytest.raises(NoSuchSiteError, match=r"^prompts need .* a sequence of tokens; .* see maps$"):
            attach(name, backbone)


def test_plain_prefix_is_attention_over_more_keys_and_values_in_every_block() -> None:
    backbone = vit_micro()
    attached = attach("prefix", backbone, compensated=False, length=3)
    assert len(attached.branches) == 2 * 4
    assert all(name.endswith("rows") for name, _ in attached.named_parameters())
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.mul_(200)
    block, width, heads = backbone.blocks[2], 128, 4
    tokens = torch.randn(2, 5, width, generator=generator(1))
    keys, values = (branch.rows.view(3, heads, 32).transpose(0, 1) for branch in attached.branches[4:6])
    q, k, v = block["attn.qkv"](tokens).view(2, 5, 3, heads, 32).permute(2, 0, 3, 1, 4)
    k, v = torch.cat((keys.expand(2, -1, -1, -1), k), 2), torch.cat((values.expand(2, -1, -1, -1), v), 2)
    attended = (q @ k.mT / math.sqrt(32)).softmax(-1) @ v
    expected = block["attn.proj"](attended.transpose(1, 2).reshape(2, 5, width))
    torch.testing.assert_close(block["attn"](tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compensated", [True, False])
def test_only_a_compensated_prefix_opens_the_attention(compensated: bool) -> None:
    backbone = vit_micro()
    attach("prefix", backbone, compensated=compensated)
    explicit = [block["attn.probs"].is_active for block in backbone.blocks]
    assert explicit == [compensated] * 2 + [False] * 2


def test_plain_prefix_runs_in_the_windows_of_a_swin() -> None:
    backbone = opened(
        timm.models.SwinTransformer(
            32, 4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=0
        )
    )
    before = backbone(images())
    attached = attach("prefix", backbone, compensated=False, length=3)
    assert attached.num_parameters == 2 * 3 * (16 + 16 + 32 + 32)
    assert not torch.allclose(backbone(images()), before)
