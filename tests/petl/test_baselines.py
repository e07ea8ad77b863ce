"""Show that the baselines of the PETL papers are what their formulas say, number for number."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.backbones.sites import NoSuchSiteError, Site
from clbench.options import SpecError
from clbench.petl.adaptformer import ParallelAdapter
from clbench.petl.attached import Attached
from clbench.petl.ia3 import InputScale, KeyValueScale
from clbench.petl.parts.low_rank import LowRankUpdate
from clbench.petl.parts.output_adapter import OutputAdapter
from clbench.petl.repadapter import LinearBottleneck
from clbench.petl.ssf import ScaleShift
from clbench.testing import check_petl

EVERYWHERE = ("adaptformer", "bitfit", "norm-tuning", "ssf")  # a ResNet included
WITH_MLP = (*EVERYWHERE, "houlsby", "pfeiffer", "ia3", "repadapter")  # a ConvNeXt included
BASELINES = (*WITH_MLP, "lora-qv", "lora-fused")
MERGED = ("ia3", "lora-qv", "lora-fused", "repadapter", "ssf")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attach(name: str, backbone: Backbone, **options: float) -> Attached:
    return petl.get(name)(**options).attach(backbone, generator())


def small(model: nn.Module) -> Backbone:
    """Open a model of random weights; the small ones that timm draws are made visible."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.1 * torch.randn(parameter.shape, generator=generator()))
    unit = (1.0, 1.0, 1.0)
    return open_model("small", model, Preprocessing(32, unit, unit, 1.0, "bilinear"), source="", digest="")


def small_vit() -> Backbone:
    vit = timm.models.VisionTransformer
    return small(vit(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0))


def small_swin() -> Backbone:
    swin = timm.models.SwinTransformer
    return small(swin(32, 4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=0))


def small_convnext(*, conv_mlp: bool = False) -> Backbone:
    convnext = timm.models.ConvNeXt
    return small(convnext(depths=(1, 1, 2, 1), dims=(8, 8, 16, 16), num_classes=0, conv_mlp=conv_mlp))


def slim_resnet() -> Backbone:
    return backbones.create("slim-resnet18", BackboneOptions(weights="none"))


def randomise(module: nn.Module, size: float = 1.0) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator(1)))


def fill(*pairs: tuple[Tensor, list[float] | list[list[float]] | list[list[list[float]]]]) -> None:
    with torch.no_grad():
        for tensor, values in pairs:
            tensor.copy_(torch.tensor(values))


@pytest.mark.parametrize(
    ("module", "options", "parameters"),
    [
        ("houlsby", {}, 313_536),
        ("pfeiffer", {}, 156_768),
        ("adaptformer", {}, 156_768),
        ("adaptformer", {"rank": 64}, 1_189_632),
        ("lora-qv", {}, 294_912),
        ("lora-fused", {}, 294_912),
        ("ia3", {}, 55_296),
        ("repadapter", {}, 239_808),
        ("bitfit", {}, 102_912),
        ("norm-tuning", {}, 38_400),
        ("ssf", {}, 205_824),
    ],
)
def test_parameter_counts_on_vit_b_16_are_those_of_the_papers(
    unallocated: Callable[[str], Backbone], module: str, options: dict[str, int], parameters: int
) -> None:
    assert attach(module, unallocated("vit_base_patch16_224"), **options).num_parameters == parameters


def test_the_published_count_of_repadapter_is_that_of_its_weights_alone(
    unallocated: Callable[[str], Backbone],
) -> None:
    attached = attach("repadapter", unallocated("vit_base_patch16_224"))
    weights = [tensor for tensor in attached.parameters() if tensor.ndim > 1]
    assert sum(weight.numel() for weight in weights) == 221_184


@pytest.mark.parametrize("module", EVERYWHERE)
def test_baselines_keep_the_contract_on_a_network_with_batch_norm(module: str) -> None:
    check_petl(petl.get(module)(), "slim-resnet18")


@pytest.mark.parametrize(
    ("module", "network"),
    [
        *((module, small_swin) for module in BASELINES),
        *((module, small_convnext) for module in WITH_MLP),
        *((module, lambda: small_convnext(conv_mlp=True)) for module in WITH_MLP),
    ],
)
def test_baselines_start_as_declared_and_merge_beyond_a_vit(
    module: str, network: Callable[[], Backbone]
) -> None:
    backbone = network()
    images = torch.randn(2, 3, 32, 32, generator=generator())
    before = backbone(images)
    attached = attach(module, backbone)
    is_identity = torch.allclose(backbone(images), before, atol=1e-6)
    assert is_identity == attached.petl.identity_at_start
    randomise(attached, 0.05)
    trained = backbone(images)
    assert not torch.allclose(trained, before, atol=1e-3)
    if module in MERGED:
        attached.merge()
        assert not attached.enabled
        torch.testing.assert_close(backbone(images), trained, atol=2e-5, rtol=2e-5)  # float32 sums reordered


@pytest.mark.parametrize(
    ("module", "network", "missing"),
    [
        ("lora-qv", small_convnext, "attn.qkv"),
        ("lora-fused", slim_resnet, "attn.qkv"),
        ("houlsby", slim_resnet, "mlp"),
        ("pfeiffer", slim_resnet, "mlp"),
        ("repadapter", slim_resnet, "mlp.fc1"),
        ("ia3", slim_resnet, "mlp.act"),
    ],
)
def test_a_missing_site_is_named(module: str, network: Callable[[], Backbone], missing: str) -> None:
    with pytest.raises(NoSuchSiteError, match=rf"block\[0\] of this backbone has no site '{missing}'"):
        attach(module, network())


def test_an_output_adapter_reads_what_the_sub_layer_gives() -> None:
    branch = OutputAdapter(Site("attn", None, 2), 1, generator())
    fill((branch.down.weight, [[1.0, 1.0]]), (branch.up.weight, [[1.0], [-1.0]]), (branch.up.bias, [0.5, 0]))
    output = torch.tensor([[2.0, 1.0]])
    gelu_3 = 3 * 0.9986501  # 3 times the share of a standard normal below 3
    expected = torch.tensor([[2 + gelu_3 + 0.5, 1 - gelu_3]])
    torch.testing.assert_close(branch(torch.full((1, 2), 100.0), output), expected)


def test_houlsby_is_at_both_sub_layers_and_pfeiffer_at_the_second() -> None:
    backbone = small_vit()
    block, tokens = backbone.blocks[0], torch.randn(1, 17, 16, generator=generator())
    attended, transformed = block["attn"](tokens), block["mlp"](tokens)
    houlsby = attach("houlsby", backbone)
    randomise(houlsby)
    assert torch.equal(block["attn"](tokens), houlsby.branches[0](tokens, attended))
    assert torch.equal(block["mlp"](tokens), houlsby.branches[1](tokens, transformed))
    houlsby.detach()
    pfeiffer = attach("pfeiffer", backbone)
    randomise(pfeiffer)
    assert torch.equal(block["attn"](tokens), attended)
    assert torch.equal(block["mlp"](tokens), pfeiffer.branches[0](tokens, transformed))


def test_adaptformer_reads_the_residual_stream_without_a_norm() -> None:
    backbone = small_vit()
    block, tokens = backbone.blocks[0], torch.randn(1, 17, 16, generator=generator())
    middle = tokens + block["attn"](block["norm1"](tokens))
    plain = middle + block["mlp"](block["norm2"](middle))
    attached = attach("adaptformer", backbone)
    randomise(attached)
    branch = attached.branches[0]
    hidden = (middle @ branch.down.weight.T + branch.down.bias).clamp(min=0)
    expected = plain + 0.1 * (hidden @ branch.up.weight.T + branch.up.bias)
    torch.testing.assert_close(block[""](tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("module", ["adaptformer", "repadapter"])
def test_dropout_acts_in_training_mode_alone(module: str) -> None:
    backbone = small_vit()
    attached = attach(module, backbone, dropout=0.5)
    randomise(attached)
    images = torch.randn(1, 3, 32, 32, generator=generator())
    assert torch.equal(backbone(images), backbone(images))
    attached.train()
    with torch.random.fork_rng():
        assert not torch.equal(backbone(images), backbone(images))


def test_a_parallel_adapter_by_hand() -> None:
    branch = ParallelAdapter(Site("mlp", None, 2), 2, scale=0.1, dropout=0.0, generator=generator())
    fill((branch.down.weight, [[1.0, 0.0], [0.0, -1.0]]), (branch.up.weight, [[1.0, 1.0], [2.0, 0.0]]))
    fill((branch.down.bias, [1.0, 0.0]), (branch.up.bias, [0.0, 5.0]))
    out = branch(torch.tensor([[3.0, 4.0]]), torch.tensor([[10.0, 20.0]]))  # relu: (4, 0)
    torch.testing.assert_close(out, torch.tensor([[10 + 0.4, 20 + 0.8 + 0.5]]))


@pytest.mark.parametrize("module", ["houlsby", "pfeiffer", "adaptformer", "repadapter"])
def test_both_matrices_of_a_bottleneck_learn(module: str) -> None:
    """With both at zero, as published baselines have them, neither ever would."""
    backbone = small_vit()
    attached = attach(module, backbone)
    images = torch.randn(2, 3, 32, 32, generator=generator())
    start = {name: tensor.clone() for name, tensor in attached.state_dict().items()}
    optimizer = torch.optim.SGD(attached.parameters(), lr=1.0)  # nothing but the gradient moves a tensor
    for _ in range(3):
        optimizer.zero_grad()
        torch.autograd.backward(backbone(images).square().mean())
        optimizer.step()
    moved = {name for name, tensor in attached.state_dict().items() if not torch.equal(tensor, start[name])}
    assert moved == set(start)


def test_lora_updates_the_parts_that_it_is_given() -> None:
    update = LowRankUpdate((6, 2), 1, num_parts=3, updated=(0, 2), scale=10.0, generator=generator())
    fill((update.down[0], [[1.0, 2.0]]), (update.up[0], [[3.0], [4.0]]))
    fill((update.down[1], [[1.0, 0.0]]), (update.up[1], [[0.0], [1.0]]))
    tokens = torch.ones(1, 1, 2)
    out = update(tokens, torch.ones(1, 1, 6))
    assert out.tolist() == [[[91, 121, 1, 1, 1, 11]]]
    weight, bias = update.merged(torch.zeros(6, 2), torch.ones(6))
    assert torch.equal(F.linear(tokens, weight, bias), out)


@pytest.mark.parametrize(("module", "frozen"), [("lora-qv", [1]), ("lora-fused", [])])
def test_lora_leaves_the_keys_alone_unless_it_is_fused(module: str, frozen: list[int]) -> None:
    backbone = small_vit()
    qkv, tokens = backbone.blocks[0]["attn.qkv"], torch.randn(1, 17, 16, generator=generator())
    plain = qkv(tokens)
    randomise(attach(module, backbone))
    change = (qkv(tokens) - plain).abs().amax(dim=(0, 1)).view(3, 16).amax(dim=1)
    assert [part for part in range(3) if change[part] == 0] == frozen


def test_queries_and_values_have_a_down_matrix_each_and_the_fused_form_has_one(
    unallocated: Callable[[str], Backbone],
) -> None:
    backbone = unallocated("vit_base_patch16_224")
    shapes = [tuple(tensor.shape) for tensor in attach("lora-qv", backbone).branches[0].parameters()]
    assert shapes == [(8, 768), (8, 768), (768, 8), (768, 8)]
    shapes = [tuple(tensor.shape) for tensor in attach("lora-fused", backbone).branches[0].parameters()]
    assert shapes == [(8, 768), (2304, 8)]


@pytest.mark.parametrize(("alpha", "scale"), [(0.0, 1.0), (8.0, 1.0), (16.0, 2.0), (1.0, 0.125)])
def test_lora_is_scaled_by_alpha_over_rank(alpha: float, scale: float) -> None:
    for module in ("lora-qv", "lora-fused"):
        assert attach(module, small_vit(), alpha=alpha).branches[0].scale == scale


def test_fused_lora_is_what_peft_computes() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    vit = timm.models.VisionTransformer
    model = vit(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3).eval()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["qkv"])
    theirs = inject_adapter_in_model(config, copy.deepcopy(model)).eval()
    ours = petl.attach(model, "lora-fused", rank=4, alpha=8.0)
    randomise(ours)
    with torch.no_grad():
        for block, branch in zip(theirs.blocks, ours.branches, strict=True):
            block.attn.qkv.lora_A["default"].weight.copy_(branch.down[0])
            block.attn.qkv.lora_B["default"].weight.copy_(branch.up[0])
    images = torch.randn(2, 3, 32, 32, generator=generator())
    torch.testing.assert_close(model(images), theirs(images))


def test_ia3_scales_keys_values_and_hidden_channels() -> None:
    backbone = small_vit()
    block, tokens = backbone.blocks[0], torch.randn(1, 17, 16, generator=generator())
    query, key, value = block["attn.qkv"](tokens).chunk(3, dim=-1)
    weight, bias = block["mlp.fc2"].layer.weight, block["mlp.fc2"].layer.bias
    hidden = F.gelu(block["mlp.fc1"](tokens))
    attached = attach("ia3", backbone)
    randomise(attached)
    attention, mlp = attached.branches[0], attached.branches[1]
    expected = torch.cat((query, key * attention.key, value * attention.value), dim=-1)
    assert torch.equal(block["attn.qkv"](tokens), expected)
    torch.testing.assert_close(block["mlp"](tokens), (hidden * mlp.scale) @ weight.T + bias)


def test_ia3_merges_into_rows_and_columns() -> None:
    rows, columns = KeyValueScale(1), InputScale(2, maps=False)
    fill((rows.key, [2.0]), (rows.value, [3.0]), (columns.scale, [5.0, 7.0]))
    weight, bias = rows.merged(torch.ones(3, 1), torch.ones(3))
    assert weight.tolist() == [[1], [2], [3]]
    assert bias.tolist() == [1, 2, 3]
    weight, bias = columns.merged(torch.ones(2, 2), torch.ones(2))
    assert weight.tolist() == [[5, 7], [5, 7]]
    assert bias.tolist() == [1, 1]


def grouped_bottleneck() -> LinearBottleneck:
    """A = [[1, 0], [0, 1]], a = (1, 0), B = diag(2, 3), b = (0, 1), s = 10 on two channels."""
    branch = LinearBottleneck(2, 2, scale=10.0, dropout=0.1, maps=False, generator=generator()).eval()
    fill((branch.down, [[1.0, 0.0], [0.0, 1.0]]), (branch.down_bias, [1.0, 0.0]))
    fill((branch.up, [[[2.0]], [[3.0]]]), (branch.up_bias, [0.0, 1.0]))
    return branch


def test_repadapter_by_hand() -> None:
    # (4, 5) + 10 (B ((4, 5) + (1, 0)) + (0, 1)) = (4 + 10 * 10, 5 + 10 * 16)
    assert grouped_bottleneck().before(torch.tensor([[4.0, 5.0]])).tolist() == [[104, 165]]


def test_repadapter_merges_by_hand() -> None:
    weight, bias = grouped_bottleneck().merged(torch.tensor([[1.0, 1.0]]), torch.tensor([0.5]))
    assert weight.tolist() == [[21, 31]]  # W (I + 10 diag(2, 3))
    assert bias.tolist() == [0.5 + 20 + 10]  # c + W 10 (B a + b)
    weight, bias = grouped_bottleneck().merged(torch.tensor([[1.0, 1.0]]), None)
    assert bias.tolist() == [30]


def test_the_second_layer_of_repadapter_is_a_grouped_convolution() -> None:
    branch = LinearBottleneck(8, 4, scale=1.0, dropout=0.0, maps=True, generator=generator())
    randomise(branch)
    maps = torch.randn(2, 8, 3, 3, generator=generator())
    hidden = F.conv2d(maps, branch.down[:, :, None, None], branch.down_bias)
    weight = branch.up.flatten(0, 1)[:, :, None, None]
    expected = maps + F.conv2d(hidden, weight, branch.up_bias, groups=2)
    torch.testing.assert_close(branch.before(maps), expected, atol=1e-5, rtol=1e-5)


def test_an_odd_bottleneck_does_not_fit_the_groups() -> None:
    model = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    with pytest.raises(SpecError, match=r"petl\.rank: 7 is not allowed"):
        petl.attach(model, "repadapter", rank=7)


def test_bitfit_trains_every_bias_but_the_classifiers() -> None:
    model = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3
    )
    assert petl.attach(model, "bitfit").num_parameters == 13 * 16  # 11 L D + 2 D
    assert model.head.bias.requires_grad


def test_norm_tuning_leaves_the_norms_of_queries_and_keys_alone() -> None:
    vit = timm.models.VisionTransformer
    model = vit(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=0, qk_norm=True)
    assert attach("norm-tuning", small(model)).num_parameters == 6 * 16  # 4 L D + 2 D


@pytest.mark.parametrize("module", ["bitfit", "norm-tuning"])
def test_batch_norm_statistics_stay_frozen_and_alone_untrained(module: str) -> None:
    backbone = slim_resnet()
    statistics = {name: tensor.clone() for name, tensor in backbone.named_buffers()}
    attached = attach(module, backbone)
    attached.train()
    backbone(torch.randn(4, 3, 32, 32, generator=generator()) + 3)
    assert all(torch.equal(tensor, statistics[name]) for name, tensor in backbone.named_buffers())
    channels = sum(len(layer.weight) for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d))
    assert attached.num_parameters == channels * (1 if module == "bitfit" else 2)  # no convolution has a bias


@pytest.mark.parametrize("channels_first", [False, True])
def test_ssf_scales_and_shifts_channels(channels_first: bool) -> None:
    branch = ScaleShift(Site("norm", None, 2, channels_first=channels_first), 0.02, generator())
    fill((branch.gamma, [2.0, 3.0]), (branch.beta, [10.0, 20.0]))
    shape = (1, 2, 1, 1) if channels_first else (1, 2)
    values = torch.tensor([1.0, -1.0]).view(shape)
    assert branch(values, values).flatten().tolist() == [12, 17]


def test_ssf_merges_by_hand() -> None:
    branch = ScaleShift(Site("fc1", None, 2), 0.02, generator())
    fill((branch.gamma, [2.0, 3.0]), (branch.beta, [10.0, 20.0]))
    weight, bias = branch.merged(torch.ones(2, 2), torch.tensor([1.0, 2.0]))
    assert weight.tolist() == [[2, 2], [3, 3]]
    assert bias.tolist() == [12, 26]
    weight, bias = branch.merged(torch.tensor([5.0, 7.0]), None)  # a norm's own scale
    assert weight.tolist() == [10, 21]
    assert bias.tolist() == [10, 20]


def test_ssf_without_spread_is_the_identity() -> None:
    backbone = small_vit()
    images = torch.randn(2, 3, 32, 32, generator=generator())
    before = backbone(images)
    attach("ssf", backbone, std=0.0)
    assert torch.equal(backbone(images), before)


def test_ssf_is_drawn_around_one_and_zero() -> None:
    branch = ScaleShift(Site("wide", None, 100_000), 0.02, generator())
    for values, mean in ((branch.gamma, 1.0), (branch.beta, 0.0)):
        assert values.mean().item() == pytest.approx(mean, abs=3e-4)  # 5 standard errors
        assert values.std().item() == pytest.approx(0.02, abs=3e-4)
