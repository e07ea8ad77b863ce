"""Show that Bi-AdaptFormer and Bi-LoRA are what the paper says, formula for formula and byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.backbones.sites import NoSuchSiteError, Site
from clbench.learning.heads import GrowingHead
from clbench.petl.attached import Attached
from clbench.petl.bi_adapter import BiAdapter, LowBitBottleneck
from clbench.petl.bi_lora import BiLoRA, QueryValueUpdate
from clbench.petl.parts.low_bit import Bits, low_bit_pair
from clbench.quant.packed import packed_bytes
from clbench.quant.parts.gauss_codebook import quantise
from clbench.quant.published import from_bytes, to_bytes
from clbench.testing import check_petl

UNIT = (1.0, 1.0, 1.0)
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=generator())


def vit_micro() -> Backbone:
    return backbones.create("vit-micro", BackboneOptions(weights="none"))


def opened(model: nn.Module) -> Backbone:
    return open_model("opened", model, Preprocessing(224, UNIT, UNIT, 1.0, "bilinear"), source="", digest="")


def head(classes: int, bits: int) -> GrowingHead:
    made = GrowingHead(768, bits=bits)
    made.grow(classes, generator(), CPU)
    return made


@pytest.mark.parametrize("name", ["bi-adapter", "bi-lora"])
@pytest.mark.parametrize("bits", [2, 4, 8, 32])
def test_module_keeps_the_contract_with_every_number_of_bits(name: str, bits: int) -> None:
    check_petl(petl.get(name)(bits=bits))


@pytest.mark.parametrize(("name", "tensors"), [("bi-adapter", 24), ("bi-lora", 48)])
@pytest.mark.parametrize("rank", [1, 32])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 32])
def test_bytes_are_those_of_the_formula(
    unallocated: Callable[[str], Backbone], name: str, tensors: int, rank: int, bits: int
) -> None:
    attached = petl.get(name)(rank=rank, bits=bits).attach(unallocated("vit_base_patch16_224"), generator())
    parameters = tensors * 768 * rank
    assert attached.num_parameters == parameters
    assert packed_bytes(attached) == parameters * bits // 8 + (8 * tensors if bits < 32 else 0)


@pytest.mark.parametrize(
    ("name", "rank", "head_bits", "size"),
    [
        ("bi-adapter", 32, None, 73_920),
        ("bi-adapter", 1, None, 2_496),
        ("bi-lora", 32, None, 147_840),
        ("bi-lora", 1, None, 4_992),
        ("bi-adapter", 32, 1, 83_528),
        ("bi-adapter", 1, 1, 12_104),
        ("bi-lora", 32, 1, 157_448),
        ("bi-lora", 1, 1, 14_600),
        ("bi-adapter", 32, 32, 381_520),
        ("bi-lora", 32, 32, 455_440),
    ],
)
def test_whole_files_are_as_long_as_the_published_ones(
    unallocated: Callable[[str], Backbone], name: str, rank: int, head_bits: int | None, size: int
) -> None:
    attached = petl.get(name)(rank=rank).attach(unallocated("vit_base_patch16_224"), generator())
    parts = [attached, *([] if head_bits is None else [head(100, head_bits)])]
    assert sum(packed_bytes(part) for part in parts) == size


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 32])
def test_bytes_of_a_head(classes: int, bits: int) -> None:
    expected = 4 * classes * 769 if bits == 32 else classes * 768 * bits // 8 + 8
    assert packed_bytes(head(classes, bits)) == expected


@pytest.mark.parametrize("name", ["bi-adapter", "bi-lora"])
def test_a_file_in_the_published_layout_restores_the_output(name: str) -> None:
    recipe = petl.get(name)(rank=4, bits=2, scale=10)
    backbone = vit_micro()
    first, classifier = recipe.attach(backbone, generator()), GrowingHead(backbone.width, bits=1)
    classifier.grow(3, generator(1), CPU)
    with torch.no_grad():
        before = classifier(backbone(images()))
    content = to_bytes(first, classifier)
    assert len(content) == packed_bytes(first) + packed_bytes(classifier)
    first.detach()
    second, another = recipe.attach(backbone, generator(2)), GrowingHead(backbone.width, bits=1)
    another.grow(3, generator(3), CPU)
    from_bytes(content, second, another)
    assert torch.equal(another(backbone(images())), before)


@pytest.mark.parametrize("name", ["bi-adapter", "bi-lora"])
def test_saved_and_loaded_is_the_same_and_learns_no_more(name: str, tmp_path: Path) -> None:
    backbone = vit_micro()
    attached = petl.attach(backbone, name, bits=4, scale=10.0)
    with torch.no_grad():
        before = backbone(images())
    attached.save(tmp_path / "module.safetensors")
    attached.detach()
    loaded = petl.load(backbone, tmp_path / "module.safetensors")
    assert torch.equal(backbone(images()), before)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    bytes_of_names = (tmp_path / "module.safetensors").stat().st_size - packed_bytes(loaded)
    assert 0 < bytes_of_names < 10_000


def test_bottleneck_is_the_formula_on_the_residual_stream() -> None:
    backbone = vit_micro()
    block = backbone.blocks[0]
    branch = LowBitBottleneck(block["mlp.residual"], 4, 2, scale=0.5, dropout=0.1, generator=generator())
    branch.eval()
    tokens = torch.randn(1, 5, backbone.width, generator=generator())
    down, up = (quantise(layer.weight, layer.codes, layer.borders) for layer in (branch.down, branch.up))
    expected = 0.5 * (tokens @ down.T).relu() @ up.T
    torch.testing.assert_close(branch(tokens, torch.zeros_like(tokens)), expected)
    attached = BiAdapter(rank=4, bits=2, scale=100).attach(backbone, generator())
    seen: list[torch.Tensor] = []
    attached.branches[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    between: list[torch.Tensor] = []
    block["norm2"].register_forward_pre_hook(lambda module, args: between.append(args[0]))
    backbone(images())
    assert torch.equal(seen[0], between[0])  # the same tokens as norm2 gets, not what norm2 gives


def test_update_leaves_the_keys_alone_and_merges_the_quantised_weights() -> None:
    update = QueryValueUpdate(6, rank=2, bits=1, scale=10.0, dropout=0.1, generator=generator()).train()
    weight, bias = update.merged(torch.zeros(18, 6), torch.ones(18))
    down, up = (
        quantise(layer.weight, layer.codes, layer.borders) for layer in (update.value_down, update.value_up)
    )
    torch.testing.assert_close(weight[12:], 10 * up @ down)
    assert not weight[6:12].any()
    assert torch.equal(bias, torch.ones(18))
    update.eval()
    tokens = torch.randn(1, 3, 6, generator=generator())
    torch.testing.assert_close(update(tokens, torch.zeros(1, 3, 18)), tokens @ weight.T)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 32])
@pytest.mark.parametrize("recipe", [BiAdapter, BiLoRA])
@torch.no_grad()
def test_only_32_bits_are_the_identity_at_the_start(
    recipe: type[BiAdapter] | type[BiLoRA], bits: Bits
) -> None:
    backbone = vit_micro()
    before = backbone(images())
    recipe(bits=bits).attach(backbone, generator())
    assert torch.equal(backbone(images()), before) == (bits == 32)


def test_down_is_drawn_as_torch_does_and_up_within_two_thousandths() -> None:
    down, up = low_bit_pair(400, 50, 1, generator())
    assert 0.049 < down.weight.abs().max() <= 1 / 400**0.5
    assert 0.0019 < up.weight.abs().max() <= 0.002
    assert float(up.weight.detach().std()) == pytest.approx(0.00088, abs=2e-5)  # 0.001 less the tails


def test_dropout_is_for_training_only() -> None:
    backbone = vit_micro()
    attached = BiAdapter(scale=100, dropout=0.5).attach(backbone, generator())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attached.train()
        assert not torch.equal(backbone(images()), backbone(images()))
        attached.eval()
        assert torch.equal(backbone(images()), backbone(images()))


def test_bi_adapter_is_beside_the_mlp_of_a_swin_and_the_blocks_of_a_convnext() -> None:
    swin = timm.models.SwinTransformer
    wide = opened(swin(32, 4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=0))
    assert BiAdapter(rank=1).attach(wide, generator()).num_parameters == 2 * 2 * (16 + 32)
    maps = opened(timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=0))
    attached = BiAdapter(rank=1).attach(maps, generator())
    assert attached.num_parameters == 2 * (8 + 8 + 16 + 16)


def test_on_maps_the_bottleneck_acts_on_the_channels_of_each_pixel() -> None:
    options = {"rank": 2, "bits": 1, "scale": 1.0, "dropout": 0.1}
    on_maps = LowBitBottleneck(Site("", None, 6, channels_first=True), **options, generator=generator())
    on_tokens = LowBitBottleneck(Site("", None, 6), **options, generator=generator())
    maps = torch.randn(2, 6, 3, 4, generator=generator(1))
    added = on_maps.eval()(maps, torch.zeros_like(maps))
    pixels = maps.movedim(1, -1)
    expected = on_tokens.eval()(pixels, torch.zeros_like(pixels)).movedim(-1, 1)
    assert torch.equal(added, expected)


def test_bi_adapter_leaves_out_the_blocks_of_a_resnet_that_change_the_shape() -> None:
    backbone = backbones.create("slim-resnet18", BackboneOptions(weights="none"))
    attached: Attached = BiAdapter(rank=1).attach(backbone, generator())
    assert len(attached.branches) == sum(block.keeps_shape for block in backbone.blocks) == 5


def test_bi_lora_is_refused_where_there_is_no_attention() -> None:
    backbone = backbones.create("slim-resnet18", BackboneOptions(weights="none"))
    with pytest.raises(NoSuchSiteError, match=r"block\[0\] of this backbone has no site 'attn.qkv'"):
        BiLoRA().attach(backbone, generator())


def test_old_classes_keep_their_logits_when_a_low_bit_head_grows() -> None:
    made = head(4, bits=1)
    features = torch.randn(3, 768, generator=generator())
    before = made(features)
    made.grow(2, generator(1), CPU)
    assert made.num_classes == 6
    assert torch.equal(made(features)[:, :4], before)
    assert packed_bytes(made) == 6 * 96 + 2 * 8
    assert len(made.tasks[0].weight.unique()) > 2  # it learns behind the two values that it computes with
