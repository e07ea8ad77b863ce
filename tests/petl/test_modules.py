"""Show that every module keeps the contract, and that LAE's are what the paper says, number for number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import nn

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.backbones.sites import BlockSites, Branch, NoSuchSiteError
from clbench.backbones.vit import OpenAttention
from clbench.errors import UserError
from clbench.petl.attached import Attached, swapped
from clbench.petl.lora import KeyValueUpdate
from clbench.petl.prefix import Compensation, Prefix
from clbench.testing import check_petl


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_backbone(name: str = "vit-micro") -> Backbone:
    return backbones.create(name, BackboneOptions(weights="none"))


def small(model: nn.Module, size: int = 32) -> Backbone:
    """Open a model of random weights; the small ones that timm draws are made visible."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.1 * torch.randn(parameter.shape, generator=generator()))
    half = (0.5, 0.5, 0.5)
    return open_model("small", model, Preprocessing(size, half, half, 1.0, "bilinear"), source="", digest="")


def small_convnext() -> Backbone:
    return small(timm.models.ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 8, 16, 16), num_classes=0))


def small_swin() -> Backbone:
    swin = timm.models.SwinTransformer
    return small(swin(32, 4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=0))


def attach(name: str, backbone: Backbone, **options: int) -> Attached:
    return petl.get(name)(**options).attach(backbone, generator())


# Of the many that wrap peft one of each kind is enough for the quick tests.
QUICK = {"peft.lora", "peft.ia3", "peft.vera", "peft.oft"}


def is_slow(name: str) -> bool:
    return name.startswith("peft.") and name not in QUICK


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if is_slow(name) else []) for name in petl.names()],
)
def test_module_keeps_the_contract(name: str) -> None:
    check_petl(petl.get(name)())


@pytest.mark.parametrize("name", ["full", "linear"])
def test_module_keeps_the_contract_on_a_network_with_batch_norm(name: str) -> None:
    check_petl(petl.get(name)(), "slim-resnet18")


@pytest.mark.parametrize(
    ("module", "network", "parameters"),
    [
        ("adapter", "vit_base_patch16_224", 42_270),
        ("lora", "vit_base_patch16_224", 76_810),
        ("prefix", "vit_base_patch16_224", 76_810),
        ("adapter", "swin_base_patch4_window7_224", 42_300),
        ("conv-adapter", "convnext_base", 63_450),
        ("adapter", "convnext_base", 63_450),
    ],
)
def test_parameter_counts_are_those_of_the_paper(
    unallocated: Callable[[str], Backbone], module: str, network: str, parameters: int
) -> None:
    assert attach(module, unallocated(network)).num_parameters == parameters


@pytest.mark.parametrize(
    ("module", "network"),
    [
        *((module, small_convnext) for module in ("adapter", "conv-adapter")),
        *((module, small_swin) for module in ("adapter", "lora", "conv-adapter")),
    ],
)
def test_modules_are_the_identity_at_the_start_on_other_families(
    module: str, network: Callable[[], Backbone]
) -> None:
    backbone = network()
    images = torch.randn(2, 3, 32, 32, generator=generator())
    before = backbone(images)
    attach(module, backbone)
    assert torch.equal(backbone(images), before)


def test_lora_merges_into_a_swin() -> None:
    backbone = small_swin()
    images = torch.randn(2, 3, 32, 32, generator=generator())
    attached = attach("lora", backbone, num_blocks=4)
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(1)))
    before, weights = backbone(images), [block["attn.qkv"].layer.weight for block in backbone.blocks]
    attached.merge()
    torch.testing.assert_close(backbone(images), before, atol=1e-5, rtol=1e-5)
    attached.unmerge()
    assert all(
        weight is block["attn.qkv"].layer.weight
        for weight, block in zip(weights, backbone.blocks, strict=True)
    )


def test_lora_adds_nothing_to_queries_and_its_product_to_keys_and_values() -> None:
    update = KeyValueUpdate(width=2, rank=1, generator=generator())
    with torch.no_grad():
        update.key_down.copy_(torch.tensor([[1.0, 2.0]]))
        update.key_up.copy_(torch.tensor([[3.0], [4.0]]))
        update.value_down.copy_(torch.tensor([[1.0, 0.0]]))
        update.value_up.copy_(torch.tensor([[0.0], [1.0]]))
        update.value_scale.fill_(10.0)
    tokens = torch.tensor([[[1.0, 1.0]]])
    out = update(tokens, torch.zeros(1, 1, 6))
    assert out.tolist() == [[[0, 0, 9, 12, 0, 10]]]
    weight, bias = update.merged(torch.zeros(6, 2), None)
    assert bias is None
    assert torch.equal(tokens @ weight.T, out)


def test_compensated_prefix_gives_seven_where_plain_prefix_tuning_gives_three() -> None:
    probs = torch.full((1, 1, 1, 3), 1 / 3)  # one prefix key and two tokens, all logits 0
    values = torch.tensor([6.0, 0.0, 3.0]).view(1, 1, 3, 1)
    assert (probs @ values).item() == pytest.approx(3)
    assert (Compensation(1)(probs, probs) @ values).item() == pytest.approx(7)


def test_compensated_prefix_is_the_closed_form_of_the_paper() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = OpenAttention(timm.layers.Attention(8, num_heads=2, qkv_bias=True), "attn")
    keys, values = Prefix(3, 8, generator(1)), Prefix(3, 8, generator(2))
    with torch.no_grad():
        for prefix in (keys, values):
            prefix.rows.mul_(200)
        keys.scale.fill_(1.5)
        values.scale.fill_(0.5)
    petls = [(attention.keys, keys), (attention.values, values), (attention.probs, Compensation(3))]
    tokens = torch.randn(2, 5, 8, generator=generator(3))
    q, k, v = attention.qkv(tokens).reshape(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    prefix_k, prefix_v = (1.5 * keys.rows).view(3, 2, 4), (0.5 * values.rows).view(3, 2, 4)
    prefix_k, prefix_v = prefix_k.transpose(0, 1), prefix_v.transpose(0, 1)
    own, prefix = q @ k.mT / math.sqrt(4), q @ prefix_k.mT / math.sqrt(4)
    lam = torch.cat((prefix, own), dim=-1).softmax(-1)[..., :3].sum(-1, keepdim=True)
    heads = (1 - lam) * (own.softmax(-1) @ v) + prefix.softmax(-1) @ prefix_v
    expected = attention.proj(heads.transpose(1, 2).reshape(2, 5, 8))
    for site, branch in petls:
        site.attached.append((_on(), branch))
    torch.testing.assert_close(attention(tokens), expected, atol=1e-5, rtol=1e-5)


def test_prefix_on_a_shifted_swin_block_is_neither_masked_nor_biased() -> None:
    backbone = small_swin()
    block = backbone.blocks[1]  # shifted: four windows an image
    width = block.width
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith("relative_position_bias_table"):
                parameter.fill_(10)
    keys = Prefix(2, width, generator())
    block["attn.keys"].attached.append((_on(), keys))
    block["attn.values"].attached.append((_on(), Prefix(2, width, generator(1))))
    seen: list[torch.Tensor] = []
    block["attn.logits"].attached.append((_on(), _Recorder(seen)))
    backbone(torch.randn(1, 3, 32, 32, generator=generator()))
    (logits,) = seen
    heads = backbone.blocks[1].heads
    assert logits.shape == (4, heads, 16, 18)
    prefix, tokens = logits[..., :2], logits[..., 2:]
    assert prefix.abs().max() < 1  # neither 10 of the bias nor -100 of the mask
    assert ((tokens - 10).abs() < 5).any()
    assert ((tokens + 90).abs() < 5).any()
    assert (((tokens - 10).abs() < 5) | ((tokens + 90).abs() < 5)).all()


def test_conv_adapter_is_the_formula_beside_the_whole_block() -> None:
    backbone = small_convnext()
    site = backbone.blocks[0].whole
    maps = torch.randn(1, 8, 4, 4, generator=generator())
    plain = site(maps)
    attached = attach("conv-adapter", backbone, num_blocks=1)
    (branch,) = attached.branches
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(1)))
    pixels = maps.movedim(1, -1)
    hidden = nn.functional.gelu(pixels @ branch.down.weight.flatten(1).T + branch.down.bias)
    added = branch.scale * (hidden @ branch.up.weight.flatten(1).T + branch.up.bias)
    torch.testing.assert_close(site(maps), plain + added.movedim(-1, 1), atol=1e-5, rtol=1e-5)


def test_conv_adapter_is_refused_beside_a_block_that_changes_the_shape() -> None:
    backbone = random_backbone("slim-resnet18")
    with pytest.raises(
        UserError, match=r"block\[2\] changes the shape of its input.*num_blocks=N with N in 1..2"
    ):
        attach("conv-adapter", backbone)
    assert not any(site.attached for site in backbone.sites.values())
    assert attach("conv-adapter", backbone, num_blocks=2).num_parameters == 2 * (11 * 20 + 6)


def test_lora_is_refused_where_there_is_no_attention() -> None:
    with pytest.raises(NoSuchSiteError, match=r"block\[0\] of this backbone has no site 'attn.qkv'"):
        attach("lora", small_convnext())


def test_more_blocks_than_there_are_is_a_clear_error() -> None:
    with pytest.raises(UserError, match=r"petl\.num_blocks: 7 blocks asked for; vit-micro has 4"):
        attach("adapter", random_backbone(), num_blocks=7)


@pytest.mark.parametrize(("depth", "adapted"), [(12, 5), (24, 10), (36, 15), (6, 3)])
def test_five_twelfths_of_the_blocks_are_adapted(depth: int, adapted: int) -> None:
    from clbench.petl.parts.initialise import first_blocks

    @dataclass
    class Deep:
        name: str
        blocks: list[BlockSites]

    deep = Deep("deep", [BlockSites(index, 1, 1, {}) for index in range(depth)])
    assert [block.index for block in first_blocks(deep, 0)] == list(range(adapted))


def test_full_keeps_batch_norm_statistics_apart() -> None:
    backbone = random_backbone("slim-resnet18")
    name = next(name for name in backbone.state_dict() if name.endswith("bn1.running_mean"))
    before = backbone.get_buffer(name).clone()
    full = attach("full", backbone)
    full.train()
    backbone(torch.randn(4, 3, 32, 32, generator=generator()) + 3)
    learnt = backbone.get_buffer(name).clone()
    assert not torch.equal(learnt, before)
    twin = full.copy()
    backbone(torch.randn(4, 3, 32, 32, generator=generator()) - 3)
    full.enabled = False
    assert torch.equal(backbone.get_buffer(name), before)
    twin.enabled = True
    assert torch.equal(backbone.get_buffer(name), learnt)


def test_copying_a_switched_off_module_leaves_the_one_in_use_alone() -> None:
    backbone = random_backbone()
    images = torch.randn(2, 3, 32, 32, generator=generator())
    online = attach("full", backbone)
    offline = online.copy()
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.mul_(1.1)
    learnt = backbone(images)
    another = offline.copy()
    assert torch.equal(backbone(images), learnt)
    with swapped(off=online, on=another):
        assert not torch.equal(backbone(images), learnt)
    online.enabled = False
    another.enabled = True
    another.enabled = False
    assert all(backbone.get_parameter(name).requires_grad is False for name, _ in backbone.named_parameters())


def test_merging_twice_is_merging_once_and_detaching_unmerges() -> None:
    backbone = random_backbone()
    weight = backbone.blocks[0]["attn.qkv"].layer.weight
    attached = attach("lora", backbone)
    with torch.no_grad():
        attached.branches[0].key_up.fill_(1)
    attached.merge()
    once = backbone.blocks[0]["attn.qkv"].layer.weight.clone()
    attached.merge()
    assert torch.equal(backbone.blocks[0]["attn.qkv"].layer.weight, once)
    attached.detach()
    assert backbone.blocks[0]["attn.qkv"].layer.weight is weight


def _on() -> object:
    from clbench.backbones.sites import Switch

    return Switch()


class _Recorder(Branch):
    def __init__(self, seen: list[torch.Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        self.seen.append(output)
        return output
