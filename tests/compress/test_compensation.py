"""ToCom's plug-in: its counts and units by hand, and that ways between degrees add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clbench import backbones, compress
from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Switch
from clbench.compress.parts.compensation import HIGHEST, Compensation, from_plugin, new_plugin, to_plugin
from clbench.compress.parts.places import CompressError
from clbench.petl.merging import Merged

WAYS = [(0, 8), (8, 0), (3, 5), (16, 1), (7, 16)]


@pytest.fixture
def backbone() -> Backbone:
    return backbones.create("vit-micro")


@pytest.fixture
def branch() -> Compensation:
    """One of width 6 that a long training might have left."""
    branch = Compensation(6).eval()
    generator = torch.Generator().manual_seed(1)
    branch.initialise(generator)
    branch.query_up.data.normal_(std=0.1, generator=generator)
    branch.value_up.data.normal_(std=0.1, generator=generator)
    return branch.requires_grad_(False)


def filled(backbone: Backbone, rank: int = 2) -> list[Compensation]:
    """A plug-in whose every value is drawn, so that it changes something."""
    generator = torch.Generator().manual_seed(2)
    plugin = [branch for _, branch in new_plugin(backbone, rank, generator)]
    for branch in plugin:
        branch.query_up.data.normal_(std=0.1, generator=generator)
        branch.value_up.data.normal_(std=0.1, generator=generator)
    return plugin


def delta(branch: Compensation, start: int, end: int) -> torch.Tensor:
    """What the way from one degree to another adds to queries, keys and values."""
    inputs = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(3))
    branch.pair = (start, end)
    return branch(inputs, torch.zeros(2, 3, 18))


def test_a_plug_in_of_vit_b_has_1_179_648_parameters_73_728_a_step(
    unallocated: Callable[[str], Backbone],
) -> None:
    backbone = unallocated("vit_base_patch16_224")
    generator = torch.Generator()
    plugin = [Compensation(block.width) for block in backbone.blocks]
    count = sum(parameter.numel() for branch in plugin for parameter in branch.parameters())
    assert count == 1_179_648 == 12 * 4 * 768 * 32
    assert count / HIGHEST == 73_728
    assert [site.name for site, _ in new_plugin(backbone, 2, generator)] == [
        f"block[{index}].attn.qkv" for index in range(12)
    ]


@pytest.mark.parametrize(
    ("pair", "on", "sign"),
    [
        ((3, 5), range(22, 26), 1),
        ((5, 3), range(22, 26), -1),
        ((0, 1), range(30, 32), 1),
        ((0, 16), range(32), 1),
        ((15, 16), range(2), 1),
    ],
)
def test_a_way_takes_the_units_of_its_steps(pair: tuple[int, int], on: range, sign: int) -> None:
    branch = Compensation(4)
    branch.pair = pair
    assert branch.way().tolist() == [sign if unit in on else 0 for unit in range(32)]


def test_a_way_by_hand() -> None:
    branch = Compensation(2, rank=1, scale=0.5).eval().requires_grad_(False)
    for tensor, place, value in (
        (branch.query_down, (15, 0), 2.0),  # the unit of the step from 0 to 1
        (branch.query_up, (1, 15), 3.0),
        (branch.value_down, (14, 1), 4.0),  # from 1 to 2
        (branch.value_up, (0, 14), 5.0),
    ):
        tensor.zero_()
        tensor[place] = value
    inputs = torch.tensor([[[1.0, 10.0]]])
    for pair, expected in {
        (0, 1): [0, 3, 0, 0, 0, 0],  # 0.5 * 3 * 2 * 1
        (1, 2): [0, 0, 0, 0, 100, 0],  # 0.5 * 5 * 4 * 10
        (2, 0): [0, -3, 0, 0, -100, 0],
    }.items():
        branch.pair = pair
        assert branch(inputs, torch.zeros(1, 1, 6)).flatten().tolist() == expected


@pytest.mark.parametrize("way", [(0, 8, 16), (16, 3, 5), (2, 9, 2), (5, 1, 12)])
def test_ways_add_up(way: tuple[int, int, int], branch: Compensation) -> None:
    first, middle, last = way
    parts = delta(branch, first, middle) + delta(branch, middle, last)
    assert float((delta(branch, first, last) - parts).abs().max()) <= 5e-8


@pytest.mark.parametrize("way", WAYS)
def test_the_way_back_is_the_way_with_another_sign(way: tuple[int, int], branch: Compensation) -> None:
    assert torch.equal(delta(branch, *way), -delta(branch, *reversed(way)))


@pytest.mark.parametrize("degree", [0, 1, 9, 16])
def test_no_way_adds_nothing(degree: int, branch: Compensation) -> None:
    assert not delta(branch, degree, degree).any()


def test_keys_stay(branch: Compensation) -> None:
    assert not delta(branch, 0, 16)[..., 6:12].any()


@pytest.mark.parametrize("way", WAYS)
def test_a_fresh_plug_in_changes_nothing(way: tuple[int, int], backbone: Backbone) -> None:
    images = torch.randn(2, 3, 32, 32)
    plain = backbone(images)
    for site, branch in new_plugin(backbone, 2, torch.Generator()):
        branch.pair = way
        site.attached.append((Switch(), branch.eval()))
    assert torch.equal(backbone(images), plain)


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_folded_is_as_beside_the_layer(way: tuple[int, int], backbone: Backbone) -> None:
    images = torch.randn(2, 3, 32, 32)
    plain = backbone(images)
    data = to_plugin(filled(backbone), {})
    switch = Switch()
    pairs = [(site, branch.eval()) for site, branch in from_plugin(backbone, data, "p", pair=way, scale=0.1)]
    for site, branch in pairs:
        site.attached.append((switch, branch))
    beside = backbone(images)
    switch.on = False
    folded = Merged(pairs, switch)
    assert not torch.allclose(beside, plain, atol=1e-3)
    rounding = 2e-6 * float(plain.abs().max())  # of sums in another order, in proportion to the features
    assert torch.allclose(backbone(images), beside, rtol=0, atol=rounding)
    folded.undo()
    assert torch.equal(backbone(images), plain)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_file_gives_back_what_was_put_into_it(rank: int, backbone: Backbone) -> None:
    plugin = filled(backbone, rank)
    again = from_plugin(backbone, to_plugin(plugin, {"backbone": "x"}), "p", pair=(1, 2), scale=0.05)
    for branch, (_, found) in zip(plugin, again, strict=True):
        assert (found.pair, found.scale, found.rank) == ((1, 2), 0.05, rank)
        for name, tensor in branch.named_parameters():
            assert torch.equal(found.get_parameter(name), tensor)


def test_the_same_plug_in_gives_the_same_bytes(backbone: Backbone) -> None:
    about = {f"name-{number}": str(number) for number in range(10)}
    assert to_plugin(filled(backbone), about) == to_plugin(filled(backbone), about)


def test_a_compressor_takes_the_file_and_gives_the_weights_back(backbone: Backbone, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 32, 32)
    plain = backbone(images)
    file = tmp_path / "plugin.safetensors"
    file.write_bytes(to_plugin(filled(backbone), {}))
    tome = compress.get("tome")
    merging = tome(removed=2).compress(backbone)  # type: ignore[call-arg]  # options of tome
    without = backbone(images)
    merging.detach()
    repaired = tome(removed=2, plugin=str(file), learnt_at=0).compress(backbone)  # type: ignore[call-arg]
    assert not torch.allclose(backbone(images), without, atol=1e-3)
    repaired.detach()
    same = tome(removed=2, plugin=str(file), learnt_at=2).compress(backbone)  # type: ignore[call-arg]
    assert torch.equal(backbone(images), without)
    same.detach()
    assert torch.equal(backbone(images), plain)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: b"", "is no ToCom plug-in, or is damaged"),
        (lambda data: data[:-5], "is no ToCom plug-in, or is damaged"),
        (lambda data: b"\xff" * 40, "is no ToCom plug-in, or is damaged"),
        (
            lambda data: data.replace(b"clbench tocom 1", b"clbench tocom 9"),
            "clbench pretrain tocom makes one",
        ),
        (lambda data: data.replace(b"block.3.", b"block.4."), "vit-micro has 4 of width 128"),
        (lambda data: data[:-4] + b"\0\0\xc0\x7f", "holds values that are not finite"),
    ],
)
def test_a_bad_file_is_told_in_one_line(
    spoil: Callable[[bytes], bytes], told: str, backbone: Backbone, tmp_path: Path
) -> None:
    file = tmp_path / "bad.safetensors"
    file.write_bytes(spoil(to_plugin(filled(backbone), {"backbone": "vit-micro"})))
    weights = backbone.state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    tome = compress.get("tome")(removed=2, plugin=str(file))  # type: ignore[call-arg]  # options of tome
    with pytest.raises(CompressError) as raised:
        tome.compress(backbone)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not backbone.compressed
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
