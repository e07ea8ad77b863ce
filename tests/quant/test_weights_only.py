"""Show what the quantisers that look at weights alone make of them, and in how many bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clbench import quant
from clbench.backbones import BackboneOptions, create
from clbench.backbones.backbone import Backbone
from clbench.options import SpecError, build
from clbench.quant.gauss_median import GaussMedian
from clbench.quant.parts.gauss_codebook import borders, codebook, quantise
from clbench.quant.parts.places import stages
from clbench.quant.quantised import Quantised, restored
from clbench.quant.rtn import RoundToNearest
from clbench.quant.ternary import Ternary

NAMES = ["rtn", "ternary", "gauss-median"]
NO_IMAGES = torch.empty(0, 3, 32, 32)


def opened(name: str = "vit-micro", image_size: int = 32) -> Backbone:
    return create(name, BackboneOptions(weights="none", image_size=image_size))


def quantised(backbone: Backbone, name: str, **options: object) -> Quantised:
    return build(quant.get(name), "quant", options).quantise(backbone, NO_IMAGES, torch.Generator())


def images(num_images: int = 2) -> Tensor:
    return torch.randn(num_images, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_ternary_weights_are_the_mean_of_the_large_ones() -> None:
    row = torch.tensor([[4.0, -2.0, 0.5, -0.5, 0.0, 3.0]])  # 0.7 mean|w| = 7/6
    stored = Ternary().stored(row)
    assert stored.expanded().tolist() == [[3, -3, 0, 0, 0, 3]]
    assert stored.codes().tolist() == [[3, 1, 2, 2, 2, 3]]
    assert (stored.scale.item(), stored.zero.item(), stored.bits) == (3, 2, 2)


@pytest.mark.parametrize("row", [[0.0, 0, 0], [2.0, 2, 2], [-7.0, -7, -7], [1e38, -1e38, 1e30]])
def test_ternary_weights_of_odd_rows_are_right(row: list[float]) -> None:
    matrix = torch.tensor([row])
    torch.testing.assert_close(Ternary().stored(matrix).expanded(), matrix, atol=1e31, rtol=0)


def test_codes_of_a_whole_tensor_are_the_published_ones() -> None:
    weight = torch.arange(1.0, 9.0).view(2, 4)
    stored = GaussMedian(bits=1, over="tensor", scale_bits=32).stored(weight)
    torch.testing.assert_close(stored.expanded()[0], torch.full((4,), 2.847844))
    torch.testing.assert_close(stored.expanded()[1], torch.full((4,), 6.152156))
    for bits in (1, 2, 4, 8):
        weight = torch.randn(30, 40)
        codes, cells = torch.tensor(codebook(bits)), torch.tensor(borders(bits))
        found = GaussMedian(bits=bits, over="tensor", scale_bits=32).stored(weight).expanded()
        differ = (found - quantise(weight, codes, cells)).abs() > 1e-5
        assert differ.sum() <= 2  # of 1200; what the published form adds to sigma moves its borders by 1e-5


def test_statistics_of_a_row_or_a_group_are_its_own() -> None:
    row = torch.randn(1, 64)
    far = torch.cat((row, 100 * row + 7), dim=1)
    for options, matrix in (({"group": 64}, far), ({}, far.view(2, 64))):
        found = GaussMedian(bits=2, scale_bits=32, **options).stored(matrix).expanded().view(2, 64)
        torch.testing.assert_close(found[1:], 100 * found[:1] + 7, atol=1e-3, rtol=0)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-3, 1e30])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_constant_weight_is_reproduced(value: float, bits: int) -> None:
    matrix = torch.full((3, 5), value)
    for over in ("row", "tensor"):
        found = GaussMedian(bits=bits, over=over).stored(matrix).expanded()
        torch.testing.assert_close(found, matrix, rtol=1.1e-3, atol=0)  # 2.3 of the 2048 steps of a half


def test_statistics_of_the_whole_weight_leave_no_room_for_groups() -> None:
    with pytest.raises(SpecError, match=r"^quant: group=64 is for over=row; over=tensor goes with group=0$"):
        build(GaussMedian, "quant", {"group": 64, "over": "tensor"})


@pytest.mark.parametrize(
    ("option", "value"), [("bits", 5), ("scale_bits", 8), ("group", -1), ("grid", "odd")]
)
def test_other_values_are_refused_in_one_line(option: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"^quant.{option}: .* is not allowed: [^\n]*$"):
        build(RoundToNearest, "quant", {option: value})


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("group", "scale_bits"), [(0, 16), (64, 16), (64, 32), (48, 16)])
def test_bytes_are_those_of_the_formula(bits: int, group: int, scale_bits: int) -> None:
    matrix = torch.randn(10, 192)
    stored = RoundToNearest(bits=bits, group=group, scale_bits=scale_bits).stored(matrix)
    bits_a_weight = bits + 2 * scale_bits / (group or 192)
    assert stored.num_bytes == pytest.approx(10 * 192 * bits_a_weight / 8, rel=1e-12)


def test_rows_are_filled_up_to_whole_bytes() -> None:
    assert RoundToNearest(bits=3).stored(torch.randn(5, 27)).num_bytes == 5 * (3 * 4 + 4)


@pytest.mark.parametrize(("bits", "megabytes"), [(1, 15.9), (2, 26.5), (3, 37.2), (4, 47.8)])
def test_the_blocks_of_a_base_vision_transformer_take_the_published_bytes(
    bits: int, megabytes: float, unallocated: Callable[[str], Backbone]
) -> None:
    backbone = unallocated("vit_base_patch16_224")
    layers = [place.layer for stage in stages(backbone) for place in stage.places if place.site]
    assert sum(layer.weight.numel() for layer in layers) == 84_934_656
    quantiser = RoundToNearest(bits=bits, group=64)
    one_row = {columns: quantiser.stored(torch.randn(1, columns)).num_bytes for columns in (768, 3072)}
    total = sum(len(layer.weight) * one_row[layer.in_features] for layer in layers)
    assert total / 1e6 == pytest.approx(megabytes, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 4])
def test_a_base_vision_transformer_computes_in_those_bytes(bits: int) -> None:
    backbone = opened("vit_base_patch16_224", 32)
    before = sum(tensor.numel() * 4 for tensor in backbone.state_dict().values())
    low = quantised(backbone, "rtn", bits=bits, group=64)
    low.settle()
    with torch.no_grad():
        assert backbone(images()).isfinite().all()
    patches = 768 * 768
    saved = (84_934_656 + patches) * (4 - (bits + 32 / 64) / 8)
    assert low.packed_bytes() == before - saved


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", [0, 64])
def test_a_backbone_computes_with_the_weights_that_are_stored(name: str, group: int) -> None:
    backbone = opened()
    with torch.no_grad():
        plain = backbone(images())
        low = quantised(backbone, name, group=group)
        found = backbone(images())
        weights = {path: layer.weight.clone() for path, layer in low.layers.items()}
        low.detach()
        assert torch.equal(backbone(images()), plain)
        for path, weight in weights.items():
            backbone.get_submodule(path).weight.copy_(weight)
        assert torch.equal(backbone(images()), found)
    assert not torch.equal(found, plain)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["resnet18", "convnext_atto"])
def test_convolutions_of_any_row_length_are_stored(name: str, model: str) -> None:
    backbone = opened(model)
    low = quantised(backbone, name, group=64)
    kinds = {type(layer).__name__ for layer in low.layers.values()}
    assert "LowBitConv2d" in kinds
    with torch.no_grad():
        assert backbone(images()).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_form_is_restored_from_its_tensors(name: str) -> None:
    first, second = opened(), opened()
    low = quantised(first, name)
    again = restored(second, low.quantiser, low.described(), low.state())
    assert again.state_key() == low.state_key()
    with torch.no_grad():
        assert torch.equal(second(images()), first(images()))


def test_eight_bits_are_nearly_the_weight_and_fewer_are_ever_further_off() -> None:
    layer = nn.Linear(256, 64)
    matrix = layer.weight.detach()
    errors = [
        float((RoundToNearest(bits=bits, group=64).stored(matrix).expanded() - matrix).norm() / matrix.norm())
        for bits in (8, 4, 3, 2)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 0.005
