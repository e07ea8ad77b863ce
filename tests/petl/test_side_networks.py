"""Show that side networks are what their papers say, and that their training keeps nothing of the trunk."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
from torch import Tensor, nn

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.backbones.sites import NoSuchSiteError
from clbench.errors import UserError
from clbench.petl.attached import Attached
from clbench.petl.lst import climbed
from clbench.petl.parts.pruning import kept_channels
from clbench.petl.parts.side_layers import Pooling
from clbench.petl.parts.side_network import SideNetwork
from clbench.petl.sherl import voted
from clbench.petl.unipt import Parallel, context
from clbench.testing import check_petl

SIDES = ["lst", "unipt", "sherl"]
HALF = (0.5, 0.5, 0.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(number: int = 2, size: int = 32) -> Tensor:
    return torch.randn(number, 3, size, size, generator=generator(1))


def vit_micro() -> Backbone:
    return backbones.create("vit-micro", BackboneOptions(weights="none"))


def small(**options: object) -> Backbone:
    """A ViT of three blocks and width 32, its weights far from zero."""
    model = timm.models.VisionTransformer(
        **{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, **options},
        num_classes=0,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator()))
    return open_model("small", model, Preprocessing(32, HALF, HALF, 1.0, "bilinear"), source="", digest="")


def attach(name: str, backbone: Backbone, **options: object) -> Attached:
    return petl.get(name)(**options).attach(backbone, generator())


def network_of(module: Attached) -> SideNetwork:
    (network,) = module.shared
    return network


@torch.no_grad()
def scored(weight: list[float], bias: float) -> nn.Linear:
    """A layer that scores two channels."""
    layer = nn.Linear(2, 1)
    layer.weight.copy_(torch.tensor([weight]))
    layer.bias.fill_(bias)
    return layer


@pytest.mark.parametrize(("gate", "expected"), [(0.0, [1.0, 2.0]), (0.1 * math.log(3), [1.5, 1.0])])
def test_a_ladder_mixes_what_comes_from_below_and_from_beside(gate: float, expected: list[float]) -> None:
    below, beside = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    torch.testing.assert_close(climbed(below, beside, torch.tensor(gate)), torch.tensor(expected))


@pytest.mark.parametrize(
    "said", [[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]
)
@torch.no_grad()
def test_depths_that_say_the_same_share_one_vote(said: list[list[float]]) -> None:
    layers = [torch.tensor(each).view(1, 1, 2) for each in said]
    voices = voted(layers, torch.ones(1, 1, 2), scored([1.0, 1.0], 0.0))
    torch.testing.assert_close(voices.flatten(), torch.tensor([1.5, 1.5]))


def test_a_token_finds_itself_twice_among_tokens_unlike_it() -> None:
    layer = torch.eye(2)[None]
    torch.testing.assert_close(context(layer, layer), 2 * layer)
    torch.testing.assert_close(context(layer[:, :1], layer), 2 * layer[:, :1])


@torch.no_grad()
def test_the_parallel_network_is_the_formula_token_by_token() -> None:
    pooling = Pooling("avg", 1, keeps_prefix=False)
    network = Parallel(2, width=6, side_width=4, output_width=5, pooling=pooling, generator=generator())
    depths = [torch.randn(1, 3, 6, generator=generator(seed)) for seed in range(3)]
    *layers, anchor = (read(tokens) for read, tokens in zip(network.reads, depths, strict=True))
    contexts, scores = [], []
    for layer in layers:
        weight = torch.relu(anchor @ layer.mT)
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-8) + torch.eye(3)
        contexts.append(weight @ layer)
        scores.append(network.score(anchor.mean(1) * layer.mean(1)))
    share = torch.softmax(torch.cat(scores, dim=1), dim=1)[0]
    mixed = network.mix(share[0] * contexts[0] + share[1] * contexts[1])
    expected = network.up(torch.relu(anchor + mixed))[:, 1:].mean(dim=1)
    network.begin()
    for tokens in depths:
        network.read(tokens)
    torch.testing.assert_close(network.result(), expected)


def test_of_a_single_depth_the_share_is_one() -> None:
    torch.testing.assert_close(torch.softmax(torch.tensor([[-3.0]]), dim=0), torch.ones(1, 1))
    one = small(depth=1)
    module = attach("unipt", one)
    features = one(images())
    with torch.no_grad():
        network_of(module).score.weight.mul_(100)
    torch.testing.assert_close(one(images()), features)


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("lst", {}, 2_376_492),
        ("lst", {"init": "random"}, 2_376_492),
        ("lst", {"dropped_blocks": "0,4,8"}, 9 * 111_840 + 10 * 73_824 + 9 + 192 + 74_496),
        ("unipt", {}, 1_046_305),
        ("sherl", {}, 964_322),
        ("norm-tuning", {}, 38_400),
        ("norm-tuning", {"scope": "final"}, 1_536),
    ],
)
def test_parameter_counts_are_those_of_the_papers(
    unallocated: Callable[[str], Backbone], name: str, options: dict[str, str], parameters: int
) -> None:
    assert attach(name, unallocated("vit_base_patch16_224"), **options).num_parameters == parameters


def test_the_parallel_network_counts_what_bert_had() -> None:
    pooling = Pooling("token", 1, keeps_prefix=False)
    with torch.device("meta"):
        network = Parallel(
            12, width=768, side_width=512, output_width=1024, pooling=pooling, generator=generator()
        )
    assert sum(parameter.numel() for parameter in network.parameters()) == 5_921_281


def test_a_dropped_block_has_neither_ladder_nor_side_block(unallocated: Callable[[str], Backbone]) -> None:
    ladder = network_of(attach("lst", unallocated("vit_base_patch16_224"), dropped_blocks="0,4,8"))
    assert len(ladder.blocks) == 9
    assert len(ladder.ladders) == 10  # of which one is for the embedding


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize(
    "options",
    [
        {"global_pool": "avg"},
        {"global_pool": "avg", "fc_norm": False},
        {"reg_tokens": 2},
        {"class_token": False, "global_pool": "avg"},
        {"init_values": 0.1},
        {"qkv_bias": False},
    ],
)
def test_side_networks_keep_the_contract_on_vits_of_every_kind(name: str, options: dict[str, object]) -> None:
    check_petl(petl.get(name)(), small(**options))


@pytest.mark.parametrize("options", [{"init": "random"}, {"dropped_blocks": "0,3"}, {"reduction": 2}])
def test_ladders_keep_the_contract_in_every_form(options: dict[str, object]) -> None:
    check_petl(petl.get("lst")(**options))


def kept_for_backward(backbone: Backbone) -> list[Tensor]:
    """What a training pass keeps for its backward pass, tensor by tensor."""
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        backbone(images()).square().mean()
    return kept


def inner_values(backbone: Backbone, blocks: int) -> tuple[list[object], dict[int, str]]:
    """Hooks that note the storages of what the layers inside of the first blocks compute."""
    inside: dict[int, str] = {}
    kept: list[Tensor] = []  # so that no storage is given to another tensor meanwhile

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor):
                kept.append(output)
                inside[output.untyped_storage().data_ptr()] = name

        return hook

    hooks: list[object] = [kept]
    for block in backbone.blocks[:blocks]:
        for name, part in block[""].layer.named_modules():
            if name not in ("", "input"):  # the input is what leaves the block before
                hooks.append(part.register_forward_hook(note(f"{block.index}.{name}")))
    return hooks, inside


@pytest.mark.parametrize("company", [None, "norm-tuning", "lora"])
@pytest.mark.parametrize("name", SIDES)
def test_nothing_inside_a_block_is_kept_for_the_backward_pass(name: str, company: str | None) -> None:
    backbone = small()
    module = attach(name, backbone).train()
    if company:
        attach(company, backbone).requires_grad_(requires_grad=False)
    last = len(backbone.blocks) - (1 if name == "sherl" else 0)  # whose last block is passed by the gradient
    _, inside = inner_values(backbone, last)
    kept = kept_for_backward(backbone)
    assert inside
    found = {
        inside[each.untyped_storage().data_ptr()]
        for each in kept
        if each.untyped_storage().data_ptr() in inside
    }
    assert not found
    assert module.num_parameters


def test_what_is_kept_of_the_trunk_are_the_outputs_of_its_blocks() -> None:
    backbone = small()
    attach("lst", backbone).train()
    outputs: dict[int, int] = {}
    held: list[Tensor] = []

    def note(_: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        held.extend((given[0], output))
        outputs.update({each.untyped_storage().data_ptr(): 0 for each in (given[0], output)})

    for block in backbone.blocks:
        block[""].register_forward_hook(note)
    of_trunk = {each.untyped_storage().data_ptr() for each in kept_for_backward(backbone)} & outputs.keys()
    assert len(of_trunk) == 1 + len(backbone.blocks)


def test_the_gradient_of_what_stands_beside_stays_out_of_the_blocks() -> None:
    backbone = small()
    attach("lst", backbone)
    norms = attach("norm-tuning", backbone)
    backbone(images()).sum().backward()
    assert all(parameter.grad is None for parameter in norms.parameters())


@pytest.mark.parametrize("name", SIDES)
def test_a_pass_that_breaks_off_leaves_no_trace(name: str) -> None:
    backbone = small()
    attach(name, backbone)
    features = backbone(images())
    broken = backbone.blocks[1]["mlp"].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backbone(images(3))
    broken.remove()
    assert torch.equal(backbone(images()), features)


@pytest.mark.parametrize("name", SIDES)
def test_a_pass_ends_with_nothing_held(name: str) -> None:
    backbone = small()
    network = network_of(attach(name, backbone))
    for keeps_graph in (True, False):
        with torch.set_grad_enabled(keeps_graph):
            features = backbone(images())
        assert network.reading is None
        if keeps_graph:
            features.sum().backward()
            assert network.reading is None


@pytest.mark.parametrize("name", SIDES)
def test_features_are_the_same_with_and_without_gradients(name: str) -> None:
    backbone = small()
    attach(name, backbone)
    with torch.no_grad():
        features = backbone(images())
    assert torch.equal(backbone(images()), features)


def test_a_copy_may_be_made_in_the_middle_of_a_pass() -> None:
    backbone = small()
    module = attach("sherl", backbone)
    network_of(module).begin()
    backbone(images()).sum()
    network_of(module).begin()
    twin = copy.deepcopy(module)
    assert network_of(twin).reading is None


@pytest.mark.parametrize("order", [0, 1])
def test_checkpointing_changes_no_gradient_of_two_passes_that_are_added(order: int) -> None:
    """Of each pass the last block is computed once more, with the input that it had in that pass."""
    backbone = small()
    module = attach("sherl", backbone)
    first, second = images(2), images(3)
    gradients = []
    for on in (False, True):
        backbone.model.set_grad_checkpointing(on)
        losses = [backbone(batch).square().mean() for batch in (first, second)]
        wanted = list(module.parameters())
        gradients.append(torch.autograd.grad(losses[order] + losses[1 - order], wanted))
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


@torch.no_grad()
def test_pruning_keeps_the_channels_that_weigh_most() -> None:
    backbone = small(depth=1, init_values=0.5)
    patches = backbone.site("patches").layer.weight
    patches.fill_(1e-3)
    chosen = [1, 5, 8, 13, 21, 22, 30, 31]
    patches[chosen] = 1.0
    assert kept_channels(backbone, 8).tolist() == chosen
    block = backbone.blocks[0]
    qkv, out = block["attn.qkv"].layer, block["attn.proj"].layer
    for part in range(3):
        qkv.weight[32 * part : 32 * part + 32] *= 1e-3
        for channel in (2, 3, 4, 15, 16, 17, 18, 19):  # four of the 16 of each head
            qkv.weight[32 * part + channel] *= 1e4
    side = network_of(attach("lst", backbone, reduction=4)).blocks[0]
    rows = [2, 3, 4, 15, 16, 17, 18, 19]
    expected = torch.cat([qkv.weight[32 * part :][rows][:, chosen] for part in range(3)])
    assert torch.equal(side.attn.qkv.weight, expected)
    scale = block["attn"].layer[1].gamma[chosen]
    assert torch.equal(side.attn.proj.weight, scale[:, None] * out.weight[chosen][:, rows])
    assert torch.equal(side.norm1.weight, block["norm1"].layer.weight[chosen])
    assert side.mlp.fc1.weight.shape == (32, 8)


@torch.no_grad()
def test_with_r_one_the_side_blocks_are_the_trunks() -> None:
    backbone = small()
    ladder = network_of(attach("lst", backbone, reduction=1))
    tokens = torch.randn(2, 17, 32, generator=generator())
    for side, block in zip(ladder.blocks, backbone.blocks, strict=True):
        torch.testing.assert_close(side(tokens), block[""].layer(tokens), atol=1e-5, rtol=1e-4)


def refusals() -> Iterator[object]:
    """What is refused, on which network, and what the line says."""
    for name in SIDES:
        yield pytest.param(
            name, {}, "convnext_atto", "see maps: use a Vision Transformer", id=f"{name}-convnext"
        )
        yield pytest.param(name, {}, "swin_tiny_patch4_window7_224", "see maps", id=f"{name}-swin")
        yield pytest.param(name, {}, "resnet10t", "see maps", id=f"{name}-resnet")
    siglip = "vit_base_patch16_siglip_224"
    yield pytest.param("unipt", {}, siglip, "by attention over the tokens", id="attention pooling")
    vit = "vit_tiny_patch16_224"
    yield pytest.param("lst", {"reduction": 7}, vit, r"reduction: 7 does not divide 64.*use 4 or 8", id="r")
    yield pytest.param(
        "sherl", {"reduction": 5}, vit, r"5 does not divide 192.*use 4 or 6", id="r of a width"
    )
    yield pytest.param(
        "lst", {"dropped_blocks": "0,12"}, vit, r"no block 12 of 12; use numbers in 0\.\.11", id="dropped"
    )


@pytest.mark.parametrize(("name", "options", "network", "line"), [*refusals()])
def test_what_does_not_fit_is_one_clear_line(
    unallocated: Callable[[str], Backbone], name: str, options: dict[str, object], network: str, line: str
) -> None:
    backbone = unallocated(network)
    with pytest.raises(UserError, match=line) as caught:
        attach(name, backbone, **options)
    assert "\n" not in str(caught.value)
    assert not any(site.attached for site in backbone.sites.values())


def test_pruning_refuses_blocks_of_another_kind() -> None:
    backbone = small(mlp_layer=timm.layers.SwiGLUPacked)
    with pytest.raises(NoSuchSiteError, match=r"block\[0\] is another; use --set petl\.init=random"):
        attach("lst", backbone)
    check_petl(petl.get("lst")(init="random"), backbone)


def test_prompts_that_come_between_the_blocks_are_one_clear_line() -> None:
    backbone = small()
    attach("vpt-shallow", backbone)
    attach("unipt", backbone)
    with pytest.raises(UserError, match="attach prompts after the side network"):
        backbone(images())


@pytest.mark.parametrize("prompts", ["vpt-shallow", "vpt-deep"])
def test_prompts_attached_after_a_side_network_are_read_like_other_tokens(prompts: str) -> None:
    backbone = small()
    attach("unipt", backbone)
    alone = backbone(images())
    attach(prompts, backbone)
    assert not torch.equal(backbone(images()), alone)
