"""Show that an opened model is timm's bit for bit, has the sites it promises, and is made as asked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock
from torch import Tensor, nn

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.cifar_resnet import ZeroPadded
from clbench.backbones.creation import open_model
from clbench.backbones.opening import resize
from clbench.backbones.sites import Branch, Site, Switch
from clbench.backbones.swin import OpenWindowAttention
from clbench.backbones.vit import OpenAttention
from clbench.data.batches import Batcher
from clbench.errors import UserError

ViT = partial(timm.models.VisionTransformer, 32, 8, embed_dim=32, depth=2, num_heads=2, num_classes=0)
Distilled = partial(VisionTransformerDistilled, img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
Swin = partial(
    timm.models.SwinTransformer, patch_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=0
)
ConvNeXt = partial(timm.models.ConvNeXt, depths=(1, 1, 2, 1), dims=(8, 8, 16, 16), num_classes=0)
ResNet = partial(timm.models.ResNet, layers=(1, 1, 2, 1), channels=(8, 8, 16, 16), num_classes=0)
MobileNet = partial(timm.create_model, num_classes=0)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": ViT,
    "vit without class token": partial(ViT, class_token=False, global_pool="avg"),
    "vit with registers and scales": partial(ViT, reg_tokens=4, no_embed_class=True, init_values=0.1),
    "vit with norms everywhere": partial(ViT, pre_norm=True, qk_norm=True, scale_attn_norm=True),
    "vit with attention pooling": partial(ViT, global_pool="map"),
    "vit with other MLP": partial(ViT, mlp_layer=timm.layers.GluMlp),
    "vit with other attention": partial(ViT, attn_layer="diff"),
    "vit of parallel blocks": partial(ViT, block_fn=ParallelScalingBlock),
    "vit of post-norm blocks": partial(ViT, block_fn=ResPostBlock),
    "distilled deit": partial(Distilled, num_classes=0),
    "swin": partial(Swin, img_size=64, window_size=4),
    "swin with padded windows": partial(Swin, img_size=64, window_size=7),
    "convnext": ConvNeXt,
    "convnext with conv MLP": partial(ConvNeXt, conv_mlp=True),
    "convnext v2": partial(ConvNeXt, use_grn=True, ls_init_value=None),
    "resnet": partial(ResNet, BasicBlock),
    "resnet of bottlenecks, deep stem": partial(ResNet, Bottleneck, stem_type="deep", stem_width=8),
    "mobilenet": partial(MobileNet, "mobilenetv2_035", act_layer="relu"),  # its ReLU6 would be saturated
    "mobilenet v3": partial(MobileNet, "mobilenetv3_small_050"),
    "mobilenet v4": partial(MobileNet, "mobilenetv4_conv_small_050"),
}
SWIN_SITES = {
    *("", "norm1", "attn", "attn.residual", "norm2", "mlp", "mlp.residual", "mlp.fc1", "mlp.act", "mlp.fc2"),
    *("attn.qkv", "attn.queries", "attn.keys", "attn.values", "attn.logits", "attn.probs", "attn.proj"),
}
SITES = {
    "vit": {*SWIN_SITES, "input", "between", "attn.bias"},
    "swin": SWIN_SITES,
    "convnext": {"", "conv", "norm", "mlp", "mlp.fc1", "mlp.act", "mlp.fc2"},
    "resnet": {"", "conv1", "norm1", "conv2", "norm2"},
    "mobilenet": {"", "conv1", "conv2", "conv3"},
}
OUTSIDE = {
    "vit": {"patches", "embed", "norm", "pooled"},
    "swin": {"patches", "embed", "norm", "pooled"},
    "convnext": {"embed", "norm", "pooled"},
    "resnet": {"embed", "pooled"},
    "mobilenet": {"embed", "pooled"},
}


class Kept(Branch):
    """Changes nothing and keeps what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        self.seen.append(output)
        return output


def made(name: str) -> nn.Module:
    """A small model of timm's in eval mode, its weights far from the near-zeros they start with."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[name]().eval()
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(0.1 * torch.rand_like(tensor))
    return model


def pictures(name: str) -> Tensor:
    size = 32 if "vit" in name or "deit" in name else 64
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def opened(model: nn.Module) -> Backbone:
    unit = (1.0, 1.0, 1.0)
    return open_model("m", model, Preprocessing(32, unit, unit, 1.0, "bilinear"), source="", digest="")


def random(name: str, **options: object) -> Backbone:
    return backbones.create(name, BackboneOptions(weights="none", **options))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_opened_model_equals_timm_bit_for_bit(name: str) -> None:
    model = made(name)
    images = pictures(name)
    timms = copy.deepcopy(model).requires_grad_(False)  # which may make torch sum in another order
    backbone = opened(model)
    features = backbone(images)
    expected = timms(images.to(memory_format=backbone.memory_format))  # another layout rounds otherwise
    assert torch.equal(features, expected)
    assert features.shape == (3, backbone.width)
    assert features.std() > 0


@torch.no_grad()
def test_opened_swin_equals_timm_with_fused_attention() -> None:
    model = made("swin")
    for stage in model.layers:
        for block in stage.blocks:
            block.attn.fused_attn = True
    images = pictures("swin")
    expected = copy.deepcopy(model)(images)
    assert torch.equal(opened(model)(images), expected)


@pytest.mark.parametrize("name", ["vit", "vit with norms everywhere", "swin", "swin with padded windows"])
@pytest.mark.parametrize("site", ["attn.logits", "attn.probs"])
@torch.no_grad()
def test_explicit_attention_agrees_with_fused_attention(name: str, site: str) -> None:
    backbone = opened(made(name))
    for module in backbone.modules():
        if isinstance(module, (OpenAttention, OpenWindowAttention)):
            module.fused = True
    images = pictures(name)
    fused = backbone(images)
    kept, switch = Kept(), Switch()
    for block in backbone.blocks:
        block[site].attached.append((switch, kept))
    torch.testing.assert_close(backbone(images), fused, atol=1e-5, rtol=1e-5)
    assert len(kept.seen) == len(backbone.blocks)
    if site == "attn.probs":
        torch.testing.assert_close(kept.seen[0].sum(-1), torch.ones(kept.seen[0].shape[:-1]))
    switch.on = False
    assert torch.equal(backbone(images), fused)


@pytest.mark.parametrize("name", SITES)
def test_every_block_has_the_sites_of_its_family(name: str) -> None:
    backbone = opened(made(name))
    for index, block in enumerate(backbone.blocks):
        # the first block of a MobileNet has no expansion, so one convolution less
        absent = {"conv3"} if name == "mobilenet" and index == 0 else set()
        assert set(block.sites) == SITES[name] - absent
        assert block.index == index
        prefix = f"block[{index}]"
        assert all(
            backbone.sites[f"{prefix}.{site}" if site else prefix] is block[site] for site in block.sites
        )
    assert {site for site in backbone.sites if not site.startswith("block[")} == OUTSIDE[name]


@pytest.mark.parametrize("name", SITES)
@torch.no_grad()
def test_every_value_has_as_many_channels_as_its_site_says(name: str) -> None:
    backbone = opened(made(name))
    kept = {}
    for site_name, site in backbone.sites.items():
        if site.width:
            kept[site_name] = Kept()
            site.attached.append((Switch(), kept[site_name]))
    features = backbone(pictures(name))
    for site_name, branch in kept.items():
        (value,) = branch.seen
        site = backbone.sites[site_name]
        if site_name.endswith(("queries", "keys", "values")):  # (B, heads, tokens, width of a head)
            channels = value.shape[1] * value.shape[3]
        else:
            channels = value.shape[1 if site.channels_first else -1]
        assert channels == site.width, site_name
    assert kept["pooled"].seen[0] is features


def test_site_of_another_name_is_refused_with_the_nearest() -> None:
    backbone = opened(made("resnet"))
    with pytest.raises(UserError, match=r"block\[0\] of this backbone has no site 'attn'; it has ''"):
        backbone.blocks[0]["attn"]
    with pytest.raises(UserError, match="no site 'pool'; did you mean 'pooled'"):
        backbone.site("pool")


def test_grid_is_that_of_the_last_stage() -> None:
    assert opened(made("vit")).grid == (4, 4)
    assert opened(made("swin")).grid == (8, 8)
    assert opened(made("convnext")).grid is None


def test_backbone_is_frozen_and_in_eval_mode() -> None:
    backbone = random("vit-micro")
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())


def test_random_weights_depend_on_the_seed_alone_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    options = BackboneOptions(weights="none")
    first = backbones.create("vit-micro", options, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = backbones.create("vit-micro", options, seed=1)
    other = backbones.create("vit-micro", options, seed=2)
    assert first.weights_digest == again.weights_digest != other.weights_digest
    assert first.weights_source == "random"


def test_vit_micro_comes_with_weights_in_full_precision() -> None:
    backbone = backbones.create("vit-micro")
    assert backbone.weights_source == "clbench vit-micro"
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert backbone.weights_digest == backbones.create("vit-micro", seed=1).weights_digest
    assert backbone.weights_digest != random("vit-micro").weights_digest


def test_slim_resnet18_is_the_one_of_online_continual_learning() -> None:
    backbone = backbones.create("slim-resnet18")
    # with 100 classes, the published 1,109,240: 160 x 100 weights and 100 biases more
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 1_109_240 - 16_100
    maps = Kept()
    backbone.blocks[0].whole.attached.append((Switch(), maps))
    assert backbone(torch.zeros(1, 3, 32, 32)).shape == (1, 160)
    assert maps.seen[0].shape == (1, 20, 32, 32)
    assert [block.keeps_shape for block in backbone.blocks] == [
        True,
        True,
        False,
        True,
        False,
        True,
        False,
        True,
    ]


def test_resnet20_is_the_one_of_its_paper() -> None:
    backbone = random("resnet20")
    # 0.27M in the paper with the classifier of ten classes, which has 640 weights and 10 biases
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 269_722 - 650
    kept = [Kept() for _ in backbone.blocks]
    for block, branch in zip(backbone.blocks, kept, strict=True):
        block[""].attached.append((Switch(), branch))
    assert backbone(torch.zeros(1, 3, 32, 32)).shape == (1, 64)
    shapes = [tuple(branch.seen[0].shape[1:]) for branch in kept]
    assert shapes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3


def test_resnet20_has_no_published_weights() -> None:
    with pytest.raises(UserError, match=r"resnet20; give a file with --set backbone\.weights=FILE"):
        backbones.create("resnet20")


def test_shortcut_without_parameters_takes_every_other_pixel_and_adds_zeros() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4).repeat(1, 2, 1, 1)
    padded = ZeroPadded(2)(maps)
    assert torch.equal(padded[0, 1], torch.tensor([[0.0, 2.0], [8.0, 10.0]]))
    assert torch.equal(padded[0, 2], padded[0, 1])
    assert not padded[0, 0].any()
    assert not padded[0, 3].any()


@pytest.mark.data
@torch.no_grad()
def test_batch_norms_of_the_resnet20_of_cifar10_meet_what_they_expect(data_folder: Path) -> None:
    backbone = backbones.create(
        "resnet20", BackboneOptions(weights=str(data_folder / "resnet20_cifar10.safetensors"))
    )
    gaps: list[float] = []

    def compare(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        mean = inputs[0].mean((0, 2, 3))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gaps.append(float(((mean - norm.running_mean) / norm.running_var.sqrt()).abs().mean()))

    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(compare)
    with np.load(data_folder / "cifar100.npz") as arrays:
        images = arrays["test_x"][:500]
    batcher = Batcher(images, backbone.preprocessing, "none", torch.device("cpu"))
    backbone(batcher.test_batch(np.arange(500)))
    assert len(gaps) == 19
    assert np.mean(gaps) < 0.15  # 0.09 on CIFAR-100; 0.24 with a shortcut's zeros all behind


def test_preprocessing_is_the_models_own_unless_asked_otherwise() -> None:
    own = random("vit_tiny_patch16_224").preprocessing
    assert own == Preprocessing(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.9, "bicubic")
    options = {"normalise": "unit", "crop": 0.5, "interpolation": "bilinear", "image_size": 64}
    asked = random("vit_tiny_patch16_224", **options).preprocessing
    assert asked == Preprocessing(64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.5, "bilinear")
    imagenet = random("vit-micro", normalise="imagenet").preprocessing
    assert imagenet.mean == (0.485, 0.456, 0.406)


def test_convnet_takes_another_image_size_as_it_is() -> None:
    small, large = random("slim-resnet18", image_size=32), random("slim-resnet18", image_size=64)
    assert small.weights_digest == large.weights_digest
    assert large(torch.zeros(1, 3, 64, 64)).shape == (1, 160)


def test_vit_of_another_image_size_has_another_grid() -> None:
    backbone = random("vit-micro", image_size=64)
    assert backbone.grid == (8, 8)
    assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, 128)


@torch.no_grad()
def test_resized_swin_is_the_swin_that_timm_makes_for_that_size() -> None:
    model = made("swin")
    smaller = Swin(img_size=32, window_size=4).eval()  # the last stage is one window of 4 x 4
    smaller.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    resize(model, 32)
    assert torch.equal(model(images), smaller(images))


def test_swin_whose_last_stage_is_smaller_than_a_window_runs() -> None:
    backbone = random("swin_tiny_patch4_window7_224", image_size=96)
    assert backbone.grid == (3, 3)
    assert backbone(torch.zeros(1, 3, 96, 96)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        (
            "vit_tinny_patch16_224",
            {},
            "named 'vit_tinny_patch16_224'; did you mean 'vit_tiny_patch16_224'",
        ),
        ("vit-mikro", {}, "no backbone named 'vit-mikro'; did you mean 'vit-micro'"),
        (
            "vit_tiny_patch16_224.augreg_in22k",
            {},
            "no weights tagged 'augreg_in22k'; did you mean 'vit",
        ),
        ("ghostnet_050", {}, "cannot open a GhostNet: clbench opens the ViT"),
        (
            "vit-micro",
            {"image_size": 33},
            "33 is not a multiple of the patch size 8; use 32 or 40",
        ),
        ("vit-micro", {"image_size": 7}, "image_size: 7 is not a multiple of the patch size 8; use 8"),
        ("resnet18", {"image_size": 31}, "image_size: 31 is too small; use 32 or more"),
        ("nowhere.py:Net", {}, "no file nowhere.py"),
    ],
)
def test_what_cannot_be_made_is_one_clear_line(name: str, options: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        random(name, **options)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_timm_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    random("resnet18")
    random("vit_tiny_patch16_224", image_size=32)
    assert capfd.readouterr() == ("", "")


class Shifted(Branch):
    """Adds to what goes in, multiplies what comes out, and adds what went in."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def before(self, inputs: Tensor) -> Tensor:
        return inputs + self.number

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        return self.number * output + inputs


def test_a_branch_wraps_the_layer_with_the_branches_attached_before_it() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 10)
    site = Site("site", layer, 1)
    site.attached = [(Switch(), Shifted(2)), (Switch(), Shifted(3))]
    # 3 wraps 2 wraps the layer: 1 + 3 = 4, 4 + 2 = 6, 10 * 6 = 60, 2 * 60 + 6 = 126, 3 * 126 + 4 = 382
    assert site(torch.ones(1, 1)).item() == 382
    site.attached.reverse()  # 1 + 2 = 3, 3 + 3 = 6, 60, 3 * 60 + 6 = 186, 2 * 186 + 3 = 375
    assert site(torch.ones(1, 1)).item() == 375
