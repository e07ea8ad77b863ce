"""Show that VL-PET's gates, starts and sizes are what the paper and its code say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.backbones.creation import open_in_place
from clbench.backbones.sites import NoSuchSiteError
from clbench.errors import UserError
from clbench.petl.attached import Attached
from clbench.petl.parts.gates import ChannelGate, ElementGate, Gate, ImageGate, Start, TokenGate
from clbench.petl.parts.norms import norm_parameters
from clbench.petl.vl_pet import GatedAdapter
from clbench.testing import check_petl

VARIANTS = ("large", "middle-x", "middle-y", "small")
STREAM, INCREMENT = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[2.0, 4.0]]])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def start(*, official: bool = False) -> Start:
    return Start(torch.Generator().manual_seed(0), official=official)


def micro() -> Backbone:
    return backbones.create("vit-micro", BackboneOptions(weights="none"))


def attach(backbone: Backbone, **options: Any) -> Attached:
    return petl.get("vl-pet")(**options).attach(backbone, torch.Generator().manual_seed(0))


def randomise(module: nn.Module) -> None:
    for index, parameter in enumerate(module.parameters()):
        parameter.data = 0.3 * draw(*parameter.shape, seed=index)


def adapter(gate: Gate, *, scale: float = 1.0, heads: int = 2, gate_sees_plain: bool = False) -> GatedAdapter:
    """Return a branch of width 2 and rank 4 whose Up is zero."""
    first = [start().first(2, 4 // heads) for _ in range(heads)]
    return GatedAdapter(first, start().last(4, 2), gate, scale=scale, gate_sees_plain=gate_sees_plain)


def gates(width: int) -> dict[str, Gate]:
    """Return one of each kind, of random parameters."""
    made: dict[str, Gate] = {
        "large": ElementGate(width, 3, start()),
        "middle-x": TokenGate(width, start()),
        "middle-y": ChannelGate(width, start(), as_drawn=False),
        "small": ImageGate(width, start()),
    }
    for gate in made.values():
        randomise(gate)
    return made


@pytest.mark.parametrize(
    "variant", VARIANTS[1:]
)  # the first is the default, which is tested with all modules
def test_every_variant_keeps_the_contract(variant: str) -> None:
    check_petl(petl.get("vl-pet")(variant=variant))


@pytest.mark.parametrize("paper_gate", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_identity_at_the_start_to_a_millionth(variant: str, paper_gate: bool) -> None:
    backbone, images = micro(), draw(2, 3, 32, 32)
    before = backbone(images)
    attach(backbone, variant=variant, paper_gate=paper_gate)
    torch.testing.assert_close(backbone(images), before, atol=1e-6, rtol=1e-6)


def test_worked_example_of_a_factor_a_token() -> None:
    gate = TokenGate(2, start())
    gate.linear.bias.data.fill_(math.log(3))  # a gate of 3/4
    assert adapter(gate)(STREAM, INCREMENT).flatten().tolist() == pytest.approx([1.5, 3])


def test_worked_example_of_a_factor_a_channel() -> None:
    gate = ChannelGate(2, start(), as_drawn=False)
    gate.offset.data = torch.tensor([1, -0.5])
    assert adapter(gate)(STREAM, INCREMENT).flatten().tolist() == [4, 2]


def test_worked_example_of_a_factor_an_image() -> None:
    assert adapter(ImageGate(2, start()))(STREAM, INCREMENT).flatten().tolist() == [1, 2]


def test_worked_example_of_a_factor_an_element() -> None:
    gate = ElementGate(2, 1, start())
    gate.up.bias.data = torch.tensor([0, math.log(3)])  # gates of 1/2 and 3/4
    assert adapter(gate)(STREAM, INCREMENT).flatten().tolist() == pytest.approx([1, 3])


def test_scale_multiplies_the_gated_output() -> None:
    assert adapter(ImageGate(2, start()), scale=0.3)(STREAM, INCREMENT).flatten().tolist() == pytest.approx(
        [0.3, 0.6]
    )


def test_factor_of_an_image_is_the_mean_over_its_tokens() -> None:
    gate = ImageGate(1, start())
    gate.linear.weight.data = torch.tensor([[1.0, 0.0]])
    stream = torch.tensor([[[0.0], [math.log(3)]]])  # before the sigmoid: 0 and ln 3
    assert gate(stream, torch.zeros_like(stream)).flatten().tolist() == pytest.approx([0.625])


def test_permuting_tokens_permutes_the_output_only() -> None:
    stream, increment, order = draw(2, 5, 2), draw(2, 5, 2, seed=1), torch.tensor([3, 1, 4, 0, 2])
    for gate in gates(2).values():
        branch = adapter(gate)
        randomise(branch)
        permuted = branch(stream[:, order], increment[:, order])
        torch.testing.assert_close(permuted, branch(stream, increment)[:, order])


@pytest.mark.parametrize("tokens", [(5,), (3, 4)])
def test_grain_and_range_of_every_gate(tokens: tuple[int, ...]) -> None:
    stream, output, ones = draw(2, *tokens, 6), draw(2, *tokens, 6, seed=1), (1,) * len(tokens)
    shapes = {name: gate(stream, output).shape for name, gate in gates(6).items()}
    assert shapes["large"] == (2, *tokens, 6)
    assert shapes["middle-x"] == (2, *tokens, 1)
    assert shapes["middle-y"] == (6,)
    assert shapes["small"] == (2, *ones, 1)
    for name in ("large", "middle-x", "small"):
        factors = gates(6)[name](stream, output)
        assert 0 < factors.min() < factors.max() < 1


def test_four_heads_are_one_of_the_concatenated_weights() -> None:
    gate = TokenGate(2, start())
    four, one = adapter(gate, heads=4), adapter(gate, heads=1)
    randomise(four)
    one.downs[0].weight.data = torch.cat([down.weight for down in four.downs]).detach()
    one.downs[0].bias.data = torch.cat([down.bias for down in four.downs]).detach()
    one.up = four.up
    stream, increment = draw(2, 5, 2), draw(2, 5, 2, seed=1)
    torch.testing.assert_close(one(stream, increment), four(stream, increment))


def test_adapter_is_the_formula_on_what_the_sub_layer_gives() -> None:
    gate = TokenGate(2, start())
    branch = adapter(gate, heads=1, scale=2.0)
    randomise(branch)
    stream, increment = draw(1, 3, 2), draw(1, 3, 2, seed=1)
    hidden = increment @ branch.downs[0].weight.T + branch.downs[0].bias
    gelu = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    adapted = increment + gelu @ branch.up.weight.T + branch.up.bias
    factors = torch.sigmoid((stream + adapted) @ gate.linear.weight.T + gate.linear.bias)
    torch.testing.assert_close(branch(stream, increment), 2 * adapted * factors)


def test_gates_as_drawn_see_the_plain_output_and_squash_a_channels_offset() -> None:
    gate = TokenGate(2, start())
    branch = adapter(gate, gate_sees_plain=True)
    randomise(branch)
    branch.up.weight.data.zero_()
    branch.up.bias.data = torch.tensor([5.0, 5.0])
    factor = torch.sigmoid(gate.linear(STREAM + INCREMENT))
    torch.testing.assert_close(branch(STREAM, INCREMENT), (INCREMENT + 5) * factor)
    drawn = ChannelGate(2, start(), as_drawn=True)
    drawn.offset.data = torch.tensor([0.0, math.log(3)])
    assert drawn(STREAM, INCREMENT).tolist() == pytest.approx([1.5, 1.75])


def test_module_sees_the_stream_that_is_not_normalised_and_what_is_added_to_it() -> None:
    backbone, seen = micro(), []
    attached = attach(backbone)
    attached.branches[0].register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    streams: list[Tensor] = []
    block = backbone.blocks[0]
    block["input"].register_forward_hook(lambda _, inputs, output: streams.append(output))
    block["between"].register_forward_hook(lambda _, inputs, output: streams.append(output))
    backbone(draw(2, 3, 32, 32))
    (stream, increment, output), (before, after) = seen[0], streams
    assert torch.equal(stream, before)
    torch.testing.assert_close(output, increment)  # the identity at the start
    torch.testing.assert_close(before + output, after)


@pytest.fixture(scope="module")
def vit_b16() -> Backbone:
    with torch.device("meta"):
        return open_in_place(timm.create_model("vit_base_patch16_224", num_classes=5))


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("large", 7_119_360), ("middle-x", 3_578_136), ("middle-y", 3_578_112), ("small", 3_596_568)],
)
def test_parameter_counts_are_those_of_the_formulas(vit_b16: Backbone, variant: str, parameters: int) -> None:
    attached = attach(vit_b16, variant=variant, train_layer_norms=False)
    assert attached.num_parameters == parameters
    attached.detach()


def test_the_norms_of_vit_b16_are_38400_parameters_more(vit_b16: Backbone) -> None:
    attached = attach(vit_b16)
    assert attached.num_parameters == 7_119_360 + 38_400
    attached.detach()
    assert len(norm_parameters(vit_b16)) == 2 * (2 * 12 + 1)


def test_norms_are_named_in_every_family_and_statistics_left_alone() -> None:
    residual = backbones.create("slim-resnet18", BackboneOptions(weights="none"))
    named = norm_parameters(residual)
    norms = [module for module in residual.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(named) == 2 * len(norms)
    assert {name.rpartition(".")[2] for name in named} == {"weight", "bias"}


def test_frozen_norms_get_no_gradient() -> None:
    backbone = micro()
    attached = attach(backbone, train_layer_norms=False)
    (backbone(draw(2, 3, 32, 32)) * draw(128)).sum().backward()
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert attached.branches[0].up.weight.grad.any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_identity_at_the_start_on_a_swin(variant: str) -> None:
    swin = timm.models.SwinTransformer
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = swin(32, 4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=5)
    backbone, images = open_in_place(model), draw(2, 3, 32, 32)
    before = backbone(images)
    attached = attach(backbone, variant=variant, rank=8)
    torch.testing.assert_close(backbone(images), before, atol=1e-6, rtol=1e-6)
    randomise(attached.branches)
    alone = torch.cat([backbone(image[None]) for image in images])
    torch.testing.assert_close(backbone(images), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("variant", "kept"), [("large", 0.5), ("middle-y", 1.0)])
def test_the_official_start_is_that_of_bart(variant: str, kept: float) -> None:
    attached = attach(micro(), variant=variant, init="official")
    branch = attached.branches[0].requires_grad_(False)
    assert branch.scale == 1
    for layer in (*branch.downs, branch.up):
        assert layer.weight.std() == pytest.approx(0.02, rel=0.1)
        assert not layer.bias.any()
    factors = branch.gate(draw(2, 17, 128), draw(2, 17, 128, seed=1))
    assert factors.mean() == pytest.approx(kept, abs=0.02)
    assert factors.std() > 0.005


def test_the_start_of_t5_leaves_fifteen_hundredths_of_the_sub_layer() -> None:
    branch = attach(micro(), scale=0.3).branches[0]
    increment = draw(2, 17, 128)
    torch.testing.assert_close(branch(draw(2, 17, 128, seed=1), increment), 0.15 * increment)


def test_first_layers_begin_as_torch_has_them_and_last_ones_at_zero() -> None:
    first, last = start().first(100, 200), start().last(100, 200)
    for parameter in (first.weight, first.bias):
        assert 0.09 < parameter.abs().max() <= 0.1  # U(-1/sqrt(100), 1/sqrt(100))
    assert not last.weight.any()
    assert not last.bias.any()


def test_heads_that_do_not_divide_the_rank_are_refused() -> None:
    with pytest.raises(UserError, match=r"^petl\.heads: 5 does not divide 96, petl\.rank; use 4 or 6$"):
        attach(micro(), heads=5)


def test_networks_without_a_residual_stream_of_tokens_are_refused() -> None:
    residual = backbones.create("slim-resnet18", BackboneOptions(weights="none"))
    with pytest.raises(NoSuchSiteError, match=r"block\[0\] of this backbone has no site 'attn\.residual'"):
        attach(residual)


def test_merging_is_refused_in_one_line() -> None:
    with pytest.raises(TypeError, match=r"^GatedAdapter cannot be merged: .* it is not linear in [^\n]*$"):
        attach(micro(), variant="middle-y").merge()


@pytest.mark.parametrize("variant", ["large", "small"])
def test_compiling_changes_nothing(variant: str) -> None:
    gate = gates(2)[variant]
    branch = adapter(gate)
    randomise(branch)
    stream, increment = draw(2, 5, 2), draw(2, 5, 2, seed=1)
    torch._dynamo.reset()
    compiled = torch.compile(branch, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(stream, increment), branch(stream, increment), atol=1e-6, rtol=1e-6)
