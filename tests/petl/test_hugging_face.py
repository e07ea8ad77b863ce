"""Show that the methods of Hugging Face peft work at sites, that all are there, and that counts are right."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.backbones.sites import Branch, NoSuchSiteError, Switch
from clbench.errors import UserError
from clbench.options import SpecError, build
from clbench.petl.attached import Attached
from clbench.petl.hugging_face import REFUSED, PeftMethod
from clbench.petl.parts.peft_branch import PeftBranch, Place, StandIn, adapt
from clbench.petl.parts.peft_layers import ADAPTER, START, PeftError, peft_layers
from clbench.testing import check_petl

NAMES = [name for name in petl.names() if name.startswith("peft.")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(model: nn.Module) -> Backbone:
    """Open a model of random weights and biases, large enough to be seen."""
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(parameter + 0.1 * torch.randn(parameter.shape, generator=generator(index)))
    half = (0.5, 0.5, 0.5)
    return open_model("small", model, Preprocessing(32, half, half, 1.0, "bilinear"), source="", digest="")


def small_vit(width: int = 64, depth: int = 1) -> Backbone:
    vit = timm.models.VisionTransformer
    return small(vit(32, 8, embed_dim=width, depth=depth, num_heads=width // 32, num_classes=0))


def small_deit() -> Backbone:
    deit = timm.models.deit.VisionTransformerDistilled
    return small(deit(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2, num_classes=0))


def small_swin() -> Backbone:
    swin = timm.models.SwinTransformer
    return small(swin(32, 4, window_size=4, embed_dim=64, depths=(1, 1), num_heads=(2, 4), num_classes=0))


def small_convnext() -> Backbone:
    return small(timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(64, 64, 128, 128), num_classes=0))


def images(num: int = 2) -> Tensor:
    return torch.randn(num, 3, 32, 32, generator=generator())


def attach(name: str, backbone: Backbone, **options: Any) -> Attached:
    return petl.get(name)(**options).attach(backbone, generator())


def randomise(attached: Attached) -> None:
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(7)))


def test_every_method_of_this_peft_is_offered_or_refused_with_a_reason() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    offered = {petl.get(name).method for name in NAMES}
    assert not offered & set(REFUSED)
    assert offered | set(REFUSED) == {peft_type.value for peft_type in PEFT_TYPE_TO_CONFIG_MAPPING}


def test_listing_leaves_peft_alone() -> None:
    code = "import sys, clbench.petl as p; sys.exit(not p.names() or 'peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_listing_says_what_sets_each_method_apart() -> None:
    summary = petl.registry.card("peft.vera").summary
    assert summary == "VeRA: trained scales of frozen random LoRA factors that all layers share"
    petl.get("peft.vera")
    assert petl.registry.card("peft.vera").summary == summary


@dataclass
class Family:
    backbone: Backbone
    sites: str
    output: Tensor


@pytest.fixture(
    scope="module",
    params=[
        (small_deit, "attn.q,attn.v,attn.proj"),
        (small_swin, "attn.qkv,mlp.fc2"),
        (small_convnext, "mlp.fc1,mlp.fc2"),
    ],
    ids=["deit", "swin", "convnext"],
)
def family(request: pytest.FixtureRequest) -> Family:
    network, sites = request.param
    torch.manual_seed(0)  # fixtures of a module come before those of a test
    backbone = network()
    return Family(backbone, sites, backbone(images()))


@pytest.mark.parametrize("name", NAMES)
def test_method_changes_the_output_and_merges_on_every_family(name: str, family: Family) -> None:
    attached = attach(name, family.backbone, sites=family.sites)
    randomise(attached)
    changed = family.backbone(images())
    assert (changed - family.output).abs().max() > 1e-4 * family.output.abs().max()
    attached.merge()
    merged = family.backbone(images())
    attached.detach()
    torch.testing.assert_close(merged, changed, atol=1e-4, rtol=1e-4)  # features of size 1 to 10
    assert torch.equal(family.backbone(images()), family.output)


class Shift(Branch):
    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        return output + 1


@pytest.mark.parametrize("name", NAMES)
def test_method_feels_a_module_before_it_at_the_same_site(name: str) -> None:
    backbone = small_vit()
    site = backbone.blocks[0]["attn.qkv"]
    tokens = torch.randn(1, 3, 64, generator=generator())
    attached = attach(name, backbone, sites="attn.qkv")
    randomise(attached)
    alone = site(tokens)
    site.attached.insert(0, (Switch(), Shift()))
    shifted = site(tokens) - alone
    assert (shifted.abs() > 1e-3).float().mean() > 0.5


@pytest.mark.parametrize(
    "name", ["peft.lora", "peft.oft", "peft.hra", "peft.fourierft", "peft.pissa", "peft.shira"]
)
def test_changes_of_the_weight_add_up_with_a_module_before_them(name: str) -> None:
    backbone = small_vit()
    site = backbone.blocks[0]["attn.qkv"]
    tokens = torch.randn(1, 3, 64, generator=generator())
    randomise(attach(name, backbone))
    alone = site(tokens)
    site.attached.insert(0, (Switch(), Shift()))
    torch.testing.assert_close(site(tokens), alone + 1, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def vit_base(unallocated: Callable[[str], Backbone]) -> Backbone:
    return unallocated("vit_base_patch16_224")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("lora", {}, 294_912),
        ("rslora", {}, 294_912),
        ("lora-ga", {}, 294_912),
        ("orthogonal-lora", {}, 294_912),
        ("dora", {}, 322_560),
        ("hira", {}, 294_912),
        ("gralora", {}, 294_912),
        ("delora", {}, 294_924),
        ("deft", {}, 12 * 8 * (2304 + 768)),
        ("vera", {}, 30_720),
        ("pvera", {}, 33_792),
        ("randlora", {}, 230_400),
        ("vblora", {"vector_size": 256}, 212_992),
        ("loha", {}, 589_824),
        ("lokr", {}, 21_504),
        ("boft", {}, 101_376),
        ("oft", {}, 142_848),
        ("hra", {}, 73_728),
        ("miss", {}, 1_769_472),
        ("miss", {"form": "mini"}, 12 * 64 * 64),
        ("bone", {}, 1_769_472),
        ("fourierft", {}, 12_000),
        ("waveft", {}, 12_000),
        ("c3a", {}, 331_776),
        ("road", {}, 27_648),
        ("beft", {}, 27_648),
        ("glora", {}, 663_672),
        ("tinylora", {}, 768),
        ("tinylora", {"tying": 1.0}, 64),
        ("psoft", {}, 528),
        ("peanut", {}, 12 * 2 * 8 * 2304),
        ("supertuning", {}, 12 * int(0.01 * 2304 * 768)),
        ("unilora", {}, 256),
        ("ia3", {}, 55_296),
        ("ia3", {"sites": "attn.qkv,mlp.fc2"}, 64_512),
        ("lora", {"sites": "attn.q,attn.v"}, 294_912),
        ("dora", {"sites": "attn.q,attn.v"}, 313_344),
        ("vera", {"sites": "attn.q,attn.v"}, 24_576),
    ],
)
def test_parameters_of_a_vit_base(
    vit_base: Backbone, name: str, options: dict[str, Any], parameters: int
) -> None:
    attached = attach(f"peft.{name}", vit_base, **options)
    attached.detach()
    assert attached.num_parameters == parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("pissa", 294_912),
        ("olora", 294_912),
        ("mica", 73_728),
        ("adalora", 442_512),
        ("shira", 294_912),
        ("adamss", 12 * (5 * 100 + 2304)),  # A (1, r) of each subspace; the rows of all B are those of W
    ],
)
def test_parameters_where_values_are_needed_from_one_block_of_a_vit_base(name: str, parameters: int) -> None:
    attached = attach(f"peft.{name}", small_vit(width=768))
    assert 12 * attached.num_parameters == parameters


def placed(weight: list[list[float]]) -> tuple[Backbone, Place]:
    """A place that holds a small weight."""
    backbone = small_vit()
    site = backbone.blocks[0]["attn.qkv"]
    values = torch.tensor(weight)
    linear = nn.Linear(values.shape[1], values.shape[0], bias=False)
    linear.weight = nn.Parameter(values, requires_grad=False)
    site.layer = linear
    return backbone, Place(site, slice(0, len(values)), "attn.qkv")


def product(layer: Any, adapter: str) -> Tensor:
    return (layer.lora_B[adapter].weight @ layer.lora_A[adapter].weight).detach()


def test_pissa_takes_the_largest_singular_value_off() -> None:
    _, place = placed([[9.0, 0, 0], [0, 4, 0], [0, 0, 1]])
    (layer,), _ = peft_layers(petl.get("peft.pissa")(rank=1, alpha=1), [place])
    assert layer.lora_A[ADAPTER].weight.abs().tolist() == [[3, 0, 0]]
    torch.testing.assert_close(product(layer, ADAPTER), torch.diag(torch.tensor([9.0, 0, 0])))
    assert torch.equal(product(layer, START), product(layer, ADAPTER))
    assert torch.equal(place.weight, torch.diag(torch.tensor([9.0, 4, 1])))


def test_olora_starts_from_the_first_column_of_the_qr_decomposition() -> None:
    _, place = placed([[3.0, 1], [4, 2]])
    (layer,), _ = peft_layers(petl.get("peft.olora")(rank=1, alpha=1), [place])
    torch.testing.assert_close(product(layer, ADAPTER), torch.tensor([[3.0, 1.32], [4, 1.76]]))


def test_finished_pissa_is_a_lora_of_twice_the_rank_on_the_untouched_weight() -> None:
    backbone = small_vit()
    layer = backbone.blocks[0]["attn.qkv"].layer
    weight = layer.weight.clone()
    attached = attach("peft.pissa", backbone, rank=3)
    randomise(attached)
    assert torch.equal(layer.weight, weight)
    attached.merge()
    singular = torch.linalg.svdvals(layer.weight - weight)
    assert singular[5] > 1e-3
    assert singular[6:].max() < 1e-5 * singular[0]


def test_frozen_random_matrices_are_shared_and_drawn_again_instead_of_stored() -> None:
    backbone = small_vit(depth=2)
    attached = attach("peft.vera", backbone, rank=16)
    assert sum(tensor.numel() for tensor in attached.state_dict().values()) == 2 * (3 * 64 + 16)
    first, second = (branch.layer for branch in attached.branches)
    assert first.vera_A is second.vera_A
    twin = attached.copy()
    one, other = (branch.layer for branch in twin.branches)
    assert one.vera_A is other.vera_A
    assert one.vera_A is not first.vera_A


def test_what_all_layers_share_is_trained_and_stored_once() -> None:
    attached = attach("peft.vblora", small_vit(depth=2))
    banks = [name for name in attached.state_dict() if attached.state_dict()[name].shape == (256, 64)]
    assert banks == ["shared.0.default"]


def test_branches_hold_nothing_of_the_backbone() -> None:
    backbone = small_vit()
    attached = attach("peft.lora", backbone)
    own = {tensor.data_ptr() for tensor in backbone.state_dict().values()}
    held = {tensor.data_ptr() for tensor in attached.state_dict().values()}
    assert not own & held
    branch = copy.deepcopy(attached.branches[0])
    assert branch.place.site is backbone.blocks[0]["attn.qkv"]
    assert not any("base_layer" in name for name, _ in branch.named_modules())


def test_weight_that_another_module_is_merged_into_is_the_one_adapted() -> None:
    backbone = small_vit()
    site = backbone.blocks[0]["attn.qkv"]
    hira = attach("peft.hira", backbone)
    randomise(hira)
    hira.enabled = False
    other = attach("peft.lora", backbone)
    randomise(other)
    other.merge()
    hira.enabled = True
    factors = hira.branches[0].layer
    relative = (factors.hira_B[ADAPTER] @ factors.hira_A[ADAPTER]).detach()
    tokens = torch.randn(1, 3, 64, generator=generator())
    expected = F.linear(tokens, site.layer.weight * (1 + relative), site.layer.bias)
    torch.testing.assert_close(site(tokens), expected, atol=1e-5, rtol=1e-5)


def test_a_slice_changes_its_rows_alone() -> None:
    backbone = small_vit()
    site = backbone.blocks[0]["attn.qkv"]
    tokens = torch.randn(1, 3, 64, generator=generator())
    before = site(tokens)
    randomise(attach("peft.lora", backbone, sites="attn.k"))
    changed = (site(tokens) - before).abs().amax(dim=(0, 1)) > 1e-4
    assert changed.tolist() == [False] * 64 + [True] * 64 + [False] * 64


class Doubled(nn.Module):
    """What a layer of peft is to a branch: it asks the layer that it adapts, and merges into it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base_layer(2 * inputs)


def test_the_layer_is_asked_for_other_inputs_only_through_its_weight() -> None:
    _, place = placed([[1.0, 2], [3, 4]])
    layer = Doubled()
    branch = PeftBranch(layer, place, (), in_place=False, recomputes=False)
    tokens = torch.tensor([[[1.0, 1]]])
    assert branch(tokens, torch.tensor([[[3.0, 7]]])).tolist() == [[[6, 14]]]
    assert branch(tokens, torch.tensor([[[13.0, 17]]])).tolist() == [[[16, 24]]]  # another module added 10
    stand_in = StandIn(place)
    adapt(layer, stand_in)
    assert copy.deepcopy(stand_in).place.site is place.site


def test_lora_ga_starts_along_the_gradient_and_keeps_the_output() -> None:
    backbone = small_vit()
    layer = backbone.blocks[0]["attn.qkv"].layer
    target = torch.randn(2, 64, generator=generator(3))
    attached = attach("peft.lora-ga", backbone, rank=4, alpha=4)
    before = backbone(images())

    def loss(batch: Tensor) -> Tensor:
        return F.mse_loss(backbone(batch), target)

    attached.start(loss, [images(), images()], generator(4))
    state = {name: tensor.clone() for name, tensor in attached.state_dict().items()}
    attached.start(loss, [images()], generator(5))  # once is enough
    assert all(torch.equal(tensor, state[name]) for name, tensor in attached.state_dict().items())
    assert attached.copy().started == 1  # nor does a copy start again
    assert attached.enabled
    assert not layer.weight.requires_grad
    torch.testing.assert_close(backbone(images()), before, atol=1e-5, rtol=1e-5)
    factors = attached.branches[0].layer
    squared = torch.eye(4) * 192**0.5 / 16  # the squared length of every vector
    first, second = factors.lora_A[ADAPTER].weight, factors.lora_B[ADAPTER].weight
    torch.testing.assert_close(first @ first.T, squared, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second.T @ second, squared, atol=1e-5, rtol=1e-5)
    gradient, step = gradient_of(loss, layer), change_after_a_step(attached, loss)
    attached.detach()
    plain = change_after_a_step(attach("peft.lora", backbone, rank=4, alpha=4), loss)
    assert (
        F.cosine_similarity(step, -gradient, dim=0) > 1.5 * F.cosine_similarity(plain, -gradient, dim=0) > 0
    )


def gradient_of(loss: Callable[[Tensor], Tensor], layer: nn.Linear) -> Tensor:
    layer.weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(images()), layer.weight)
    layer.weight.requires_grad_(False)
    return gradient.flatten()


def change_after_a_step(attached: Attached, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what one small step of gradient descent on the module does to the weight."""
    before = attached.branches[0].place.weight.clone()
    optimizer = torch.optim.SGD(attached.parameters(), lr=1e-3)
    torch.autograd.backward(loss(images()))
    optimizer.step()
    attached.merge()
    change = attached.branches[0].place.weight - before
    attached.detach()
    return change.flatten()


def test_lora_ga_says_what_it_cannot_start_from() -> None:
    backbone = small_vit()
    attached = attach("peft.lora-ga", backbone, rank=4)
    with pytest.raises(PeftError, match=r"the loss has no gradient at block\[0\].attn.qkv in 1 batches"):
        attached.start(lambda batch: 0 * backbone(batch).sum(), [images()], generator())
    attached.detach()
    attached = attach("peft.lora-ga", backbone, rank=40)
    with pytest.raises(PeftError, match="rank: 40 takes 80 singular vectors of the gradient, which has 64"):
        attached.start(lambda batch: backbone(batch).square().sum(), [images()], generator())


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("lora", {"sites": "attn.qvk"}, r"sites: 'attn.qvk' is none of attn.qkv, .*did you mean 'attn.qkv'"),
        ("lora", {"sites": "attn.qkv,attn.v"}, r"names a layer twice; attn.qkv is attn.q, attn.k, attn.v"),
        ("lora", {"rank": 0}, r"petl.rank: 0 is not allowed"),
    ],
)
def test_wrong_options_are_one_line(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        build(petl.get(f"peft.{name}"), "petl", options)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("c3a", {"block_size": 60}, r"peft cannot put C3A on block\[0\].attn.qkv: .*60"),
        (
            "oft",
            {"block_size": 60},
            r"peft cannot put OFT on block\[0\].attn.qkv: Invalid `oft_block_size` \(60\)",
        ),
        ("vblora", {"vector_size": 60}, r"peft cannot put VBLORA on block\[0\].attn.qkv: .*60"),
    ],
)
def test_sizes_that_do_not_divide_are_one_line(name: str, options: dict[str, Any], reason: str) -> None:
    backbone = small_vit()
    with pytest.raises(PeftError, match=reason) as caught:
        attach(f"peft.{name}", backbone, **options)
    assert "\n" not in str(caught.value)
    assert not any(site.attached for site in backbone.sites.values())


def test_a_network_without_linear_layers_there_is_refused() -> None:
    with pytest.raises(NoSuchSiteError, match=r"block\[0\] of this backbone has no site 'attn.qkv'"):
        attach("peft.lora", small_convnext())
    resnet = backbones.create("slim-resnet18", BackboneOptions(weights="none"))
    with pytest.raises(UserError, match=r"has no site 'attn\.qkv'"):
        attach("peft.lora", resnet)
    maps = small(timm.models.ConvNeXt(depths=(1,) * 4, dims=(8,) * 4, conv_mlp=True, num_classes=0))
    with pytest.raises(PeftError, match=r"block\[0\].mlp.fc1 is a Conv2d; linear layers are adapted"):
        attach("peft.lora", maps, sites="mlp.fc1")


@dataclass(frozen=True)
class NothingToTrain(PeftMethod):
    method: ClassVar[str] = "LORA"
    fixed: ClassVar[dict[str, Any]] = {"inference_mode": True}


@dataclass(frozen=True)
class SilentlyRewritten(PeftMethod):
    method: ClassVar[str] = "LORA"
    fixed: ClassVar[dict[str, Any]] = {"init_lora_weights": "olora"}


def test_a_module_that_would_do_nothing_or_move_the_weight_is_an_error() -> None:
    with pytest.raises(PeftError, match=r"LORA of peft has nothing to train on attn\.qkv"):
        NothingToTrain().attach(small_vit(), generator())
    with pytest.raises(PeftError, match="takes LORA's start off the weight"):
        SilentlyRewritten().attach(small_vit(), generator())


@pytest.mark.parametrize("name", ["peft.lora", "peft.oft", "peft.vera", "peft.ia3"])
def test_contract_on_slices(name: str) -> None:
    check_petl(petl.get(name)(sites="attn.q,attn.v,mlp.fc2"))
