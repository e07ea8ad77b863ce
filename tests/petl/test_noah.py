"""Show that NOAH's super-net holds all architectures, and that the search keeps to its limit."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import NoSuchSiteError
from clbench.options import SpecError
from clbench.petl.attached import Attached
from clbench.petl.noah import NOAH, ChosenAdapter, ChosenPrompts, ChosenUpdate
from clbench.petl.noah_search import NoSuperNetError, choice_of, search
from clbench.petl.parts.noah_space import ArchitectureError, Space, Subnet
from clbench.seeds import forked
from clbench.testing import check_petl

MIXED = "p=10,1,5/r=5,10,1,1,5,10/h=1,5"


@pytest.fixture(autouse=True)
def six_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Architectures of four blocks leave little to choose from."""
    monkeypatch.setattr("clbench.backbones.micro.DEPTH", 6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vit_micro() -> Backbone:
    return backbones.create("vit-micro", BackboneOptions(weights="none"))


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=generator(7))


def supernet(backbone: Backbone, **options: int) -> Attached:
    """A super-net whose every tensor matters."""
    attached = NOAH(**options).attach(backbone, generator())
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(1)))
    return attached


def chosen(attached: Attached) -> Subnet:
    return choice_of(attached).chosen


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        ("", 654_456),  # 12 (10 d + 40 d + 10 (2 d + 1) + d)
        ("p=10,5/r=1/h=5", 23_045),  # 15 d + 4 d + 5 (2 d + 1) + d
        ("p=0,2/r=/h=0,0,1", 3_841),  # 2 d + (2 d + 1) + d
    ],
)
def test_parameter_counts_are_those_of_the_formula(
    unallocated: Callable[[str], Backbone], architecture: str, parameters: int
) -> None:
    attached = NOAH(architecture).attach(unallocated("vit_base_patch16_224"), generator())
    assert attached.num_parameters == parameters
    if architecture:
        assert Subnet.parse(architecture).num_parameters(768) == parameters


def test_a_chosen_architecture_keeps_the_contract() -> None:
    check_petl(NOAH(architecture="p=1,5,10,0,3/r=5,0,5/h=0,1,10"))


def test_depths_are_quarters_of_the_blocks() -> None:
    assert Space(12, 768).depths == [3, 6, 9, 12]
    assert Space(6, 128).depths == [2, 3, 5, 6]
    assert Space(2, 8).depths == [1, 2]


def test_samples_reach_every_depth_and_size_and_nothing_else() -> None:
    source = generator()
    lists = [sizes for _ in range(100) for sizes in Space(12, 768).sample(source).lists]
    assert {len(sizes) for sizes in lists} == {3, 6, 9, 12}
    assert {size for sizes in lists for size in sizes} == {1, 5, 10}


def test_text_and_architecture_are_the_same_thing() -> None:
    subnet = Subnet((10, 5, 1), (5, 5), ())
    assert str(subnet) == "p=10,5,1/r=5,5/h="
    assert Subnet.parse(str(subnet)) == subnet
    assert [subnet.at(index) for index in (0, 2, 3)] == [(10, 5, 0), (1, 0, 0), (0, 0, 0)]


@pytest.mark.parametrize("text", ["10,5/5/1", "p=1,/r=/h=", "p=-1/r=/h=", "r=1/p=1/h=1"])
def test_other_text_is_refused_when_options_are_read(text: str) -> None:
    with pytest.raises(SpecError, match=r"is no architecture; one looks like p=10,5,1/r=5,5/h=1$"):
        petl.attach(vit_micro(), "noah", architecture=text)


def test_an_architecture_for_more_blocks_or_over_the_limit_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"names more blocks than vit-micro has: 6$"):
        petl.attach(vit_micro(), "noah", architecture="p=1/r=1,1,1,1,1,1,1/h=")
    with pytest.raises(
        ArchitectureError, match=r"has 256 parameters, more than petl.max_parameters allows: 255$"
    ):
        petl.attach(vit_micro(), "noah", architecture="p=1,1/r=/h=", max_parameters=255)
    assert (
        petl.attach(vit_micro(), "noah", architecture="p=1,1/r=/h=", max_parameters=256).num_parameters == 256
    )


def test_the_default_is_the_largest_uniform_architecture_under_the_limit() -> None:
    space = Space(12, 768)
    assert space.largest(0) == Subnet((10,) * 12, (10,) * 12, (10,) * 12)
    lists = [(size,) * depth for size in (1, 5, 10) for depth in (3, 6, 9, 12)]
    counts = [Subnet(*three).num_parameters(768) for three in itertools.product(lists, repeat=3)]
    assert space.largest(400_000).num_parameters(768) == max(count for count in counts if count <= 400_000)
    assert str(space.largest(18_435)) == "p=1,1,1/r=1,1,1/h=1,1,1"  # 3 (d + 4 d + 2 d + 1 + d)
    with pytest.raises(ArchitectureError, match=r"18434 are too few; the least here are 18435$"):
        space.largest(18_434)


def test_the_super_net_under_a_limit_computes_with_what_fits() -> None:
    attached = supernet(vit_micro(), max_parameters=20_000)
    assert chosen(attached).num_parameters(128) <= 20_000 < attached.num_parameters


def cut(whole: nn.Module, part: nn.Module) -> None:
    """Copy the leading part of every tensor."""
    for small, large in zip(part.parameters(), whole.parameters(), strict=True):
        small.copy_(large[tuple(slice(size) for size in small.shape)])


def test_a_sub_net_alone_is_what_it_was_inside_the_super_net() -> None:
    backbone = vit_micro()
    whole = supernet(backbone)
    choice_of(whole).chosen = Subnet.parse(MIXED)
    features = backbone(images())
    whole.enabled = False
    alone = NOAH(MIXED).attach(backbone, generator(3))
    kinds = (ChosenPrompts, ChosenUpdate, ChosenAdapter)
    with torch.no_grad():
        for kind in kinds:
            pairs = [[each for each in module.branches if type(each) is kind] for module in (whole, alone)]
            for large, small in zip(*pairs, strict=False):  # the sub-net's are in the first blocks
                cut(large, small)
    torch.testing.assert_close(backbone(images()), features)


def test_update_and_adapter_are_their_formulas() -> None:
    backbone = vit_micro()
    block, tokens = backbone.blocks[0], torch.randn(2, 5, 128, generator=generator(2))
    qkv, mlp = block["attn.qkv"](tokens), block["mlp"](tokens)
    attached = NOAH("p=/r=3/h=2").attach(backbone, generator())
    update, adapter = attached.branches
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(4)))
    query, value = update.query_up @ update.query_down, update.value_up @ update.value_down
    weight = torch.cat((query, torch.zeros(128, 128), value))
    torch.testing.assert_close(block["attn.qkv"](tokens), qkv + tokens @ weight.T, atol=1e-4, rtol=1e-5)
    hidden = mlp @ adapter.down.T + adapter.down_bias
    added = (hidden / (1 + (-1.702 * hidden).exp())) @ adapter.up.T + adapter.up_bias
    torch.testing.assert_close(block["mlp"](tokens), mlp + added, atol=1e-4, rtol=1e-5)


def test_prompts_replace_those_of_the_block_before_and_the_last_ones_stay_to_the_end() -> None:
    backbone = vit_micro()
    attached = NOAH("p=2,3/r=/h=").attach(backbone, generator())
    features = backbone(images())
    first, second = attached.branches[0].prompts, attached.branches[1].prompts
    seen: list[int] = []
    hooks = [
        block["between"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
        for block in backbone.blocks
    ]
    backbone(images())
    for hook in hooks:
        hook.remove()
    number = seen[0] - 2  # of the class token and the patches
    assert seen == [number + 2, *[number + 3] * 5]
    attached.enabled = False
    model, embedded = backbone.model, []
    hook = backbone.blocks[0][""].register_forward_pre_hook(lambda _, inputs: embedded.append(inputs[0]))
    backbone(images())
    hook.remove()
    tokens = torch.cat((embedded[0][:, :1], first.expand(2, -1, -1), embedded[0][:, 1:]), dim=1)
    tokens = backbone.blocks[0][""](tokens)
    tokens = torch.cat((tokens[:, :1], second.expand(2, -1, -1), tokens[:, 3:]), dim=1)
    for block in backbone.blocks[1:]:
        tokens = block[""](tokens)
    tokens = torch.cat((tokens[:, :1], tokens[:, 4:]), dim=1)
    expected = model.forward_head(model.norm(tokens), pre_logits=True)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_every_matrix_starts_as_published_and_so_do_the_prompts() -> None:
    attached = NOAH().attach(vit_micro(), generator())
    for branch in attached.branches:
        for name, parameter in branch.named_parameters():
            if name == "prompts":
                bound = (6 / (128 * 11)) ** 0.5
                assert 0.9 * bound < parameter.abs().max() < bound
            elif name.endswith("bias"):
                assert not parameter.any()
            else:
                assert 0.017 < parameter.std() < 0.023


def test_a_training_step_computes_with_one_architecture_drawn_from_torchs_generator() -> None:
    backbone = vit_micro()
    attached = supernet(backbone)
    drawn = []
    for seed in range(4):
        attached.train()
        with forked(seed):
            first, second = backbone(images()), backbone(images())  # two passes of one step
        attached.eval()
        with forked(seed):
            samples = [choice_of(attached).space.sample() for _ in range(2)]
        for features, subnet in zip((first, second), samples, strict=True):
            choice_of(attached).chosen = subnet
            assert torch.equal(backbone(images()), features)
        drawn += samples
    assert len(set(drawn)) == 8


def test_a_chosen_architecture_draws_nothing_in_training() -> None:
    backbone = vit_micro()
    attached = NOAH(MIXED).attach(backbone, generator())
    features = backbone(images())
    attached.train()
    state = torch.get_rng_state()
    assert torch.equal(backbone(images()), features)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_copy_of_a_super_net_chooses_for_itself() -> None:
    backbone = vit_micro()
    attached = supernet(backbone)
    twin = attached.copy()
    choice_of(twin).chosen = Subnet.parse(MIXED)
    features = backbone(images())
    twin.enabled, attached.enabled = True, False
    assert not torch.equal(backbone(images()), features)
    assert str(chosen(attached)) != MIXED


def test_search_keeps_to_the_limit_scores_nothing_twice_and_returns_the_best() -> None:
    attached = supernet(vit_micro()).train()
    before = chosen(attached)
    scores: dict[Subnet, float] = {}

    def score(module: Attached) -> float:
        assert not module.training
        subnet = chosen(module)
        assert subnet not in scores
        scores[subnet] = float(sum(subnet.widths) - sum(subnet.prompts))
        return scores[subnet]

    best = Subnet.parse(search(attached, score, 20_000, generator(), generations=4, population=20, top=5))
    assert all(subnet.num_parameters(128) <= 20_000 for subnet in scores)
    assert len(scores) > 60
    assert scores[best] == max(scores.values())
    assert chosen(attached) == before
    assert attached.training


def test_search_repeats_itself_and_improves_on_chance() -> None:
    attached = supernet(vit_micro())

    def score(module: Attached) -> float:
        return float(sum(chosen(module).ranks) - sum(chosen(module).prompts))

    found = [search(attached, score, 0, generator(5), generations=8) for _ in range(2)]
    assert found[0] == found[1]
    sampled = [choice_of(attached).space.sample(generator(seed)) for seed in range(400)]
    best, chance = Subnet.parse(found[0]), max(sum(each.ranks) - sum(each.prompts) for each in sampled)
    assert sum(best.ranks) - sum(best.prompts) > chance


def test_search_under_the_smallest_limit_ends_with_the_only_architecture() -> None:
    attached = supernet(vit_micro())
    least = "p=1,1/r=1,1/h=1,1"
    limit = Subnet.parse(least).num_parameters(128)
    calls: list[Subnet] = []

    def score(module: Attached) -> float:
        calls.append(chosen(module))
        return 0.0

    assert search(attached, score, limit, generator(), generations=2, population=5) == least
    assert [str(call) for call in calls] == [least]


def test_search_needs_a_super_net() -> None:
    backbone = vit_micro()
    for module in (NOAH("p=1/r=1/h=1"), petl.get("adapter")()):
        with pytest.raises(
            NoSuperNetError, match=r"is no super-net; attach noah without petl\.architecture$"
        ):
            search(module.attach(backbone, generator()), lambda _: 0.0, 0, generator())


def test_noah_is_refused_where_blocks_see_maps() -> None:
    backbone = backbones.create("slim-resnet18", BackboneOptions(weights="none"))
    with pytest.raises(NoSuchSiteError, match="a sequence of tokens"):
        petl.attach(backbone, "noah")
