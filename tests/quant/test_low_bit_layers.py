"""Show that layers with a low-bit weight compute, learn and are held as they say."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import quant
from clbench.backbones import BackboneOptions, create
from clbench.backbones.backbone import Backbone
from clbench.options import build
from clbench.quant.low_bit_layers import LowBitConv2d, LowBitLayer, LowBitLinear
from clbench.quant.parts.grids import codes_of, grid_of, in_groups
from clbench.quant.parts.low_bit_weight import LowBitWeight, to_planes
from clbench.quant.parts.observed import matrix_of
from clbench.quant.parts.places import MULTIPLYING
from clbench.quant.quantised import Quantised, QuantisedError, low_bit

BITS = [1, 2, 3, 4, 5, 6, 7, 8]
LAYERS = {
    "linear": lambda: nn.Linear(10, 6),
    "without bias": lambda: nn.Linear(10, 6, bias=False),
    "convolution": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "groups": lambda: nn.Conv2d(4, 8, (3, 1), padding=(1, 0), dilation=(2, 1), groups=2, bias=False),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "as large as its input": lambda: nn.Conv2d(4, 6, (3, 5), padding="same"),
    "reflecting": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
}


def pair(kind: str, bits: int = 4) -> tuple[LowBitLayer, nn.Linear | nn.Conv2d, Tensor]:
    """A low-bit layer, the dense one that has the same weight, and an input for both."""
    layer = LAYERS[kind]()
    groups = in_groups(matrix_of(layer), 0)
    grid = grid_of(groups, bits, "asymmetric", 16)
    made = low_bit(layer, LowBitWeight.of(groups.joined(codes_of(groups, grid, bits)), *grid, bits))
    dense = copy.deepcopy(layer)
    with torch.no_grad():
        dense.weight.copy_(made.weight)
    inputs = torch.randn(3, 10) if isinstance(layer, nn.Linear) else torch.randn(3, 4, 7, 8)
    return made, dense, inputs


def opened() -> Backbone:
    return create("vit-micro", BackboneOptions(weights="none"))


def rounded(backbone: Backbone, bits: int = 4) -> Quantised:
    quantiser = build(quant.get("rtn"), "quant", {"bits": bits, "group": 64})
    return quantiser.quantise(backbone, torch.empty(0, 3, 32, 32), torch.Generator())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("columns", [1, 7, 8, 9, 27, 64])
def test_codes_come_out_of_their_planes_as_they_went_in(bits: int, columns: int) -> None:
    codes = torch.randint(2**bits, (5, columns))
    planes = to_planes(codes, bits)
    assert planes.shape == (bits, 5, -(-columns // 8))
    assert planes.dtype == torch.uint8
    stored = LowBitWeight(planes, torch.ones(5, 1), torch.zeros(5, 1), columns)
    assert torch.equal(stored.codes().long(), codes)
    assert torch.equal(stored.expanded(), codes.float())
    assert (stored.bits, stored.num_values) == (bits, 5 * columns)


def test_planes_are_the_bits_of_codes_the_first_in_the_least() -> None:
    codes = torch.tensor([[1, 2, 3, 0, 0, 0, 0, 0, 2]])
    assert to_planes(codes, 2).tolist() == [[[0b101, 0]], [[0b110, 1]]]


def test_each_group_has_its_scale_and_zero_point() -> None:
    codes = torch.tensor([[0, 1, 2, 3, 0]])
    stored = LowBitWeight.of(codes, torch.tensor([[1.0, 10.0]]), torch.tensor([[0.0, 2.5]]), 2)
    assert stored.expanded().tolist() == [[0, 1, 2, 5, -25]]
    uneven = LowBitWeight.of(codes, torch.full((1, 1), 2.0), torch.ones(1, 1), 2, torch.tensor([0, 1, 4, 9]))
    assert uneven.expanded().tolist() == [[-2, 0, 6, 16, -2]]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_a_layer_computes_what_the_dense_one_does(kind: str, bits: int) -> None:
    made, dense, inputs = pair(kind, bits)
    with torch.no_grad():
        assert torch.equal(made(inputs), dense(inputs))
    assert torch.equal(made(inputs), dense(inputs))


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_reach_input_and_bias_and_are_the_dense_layers(kind: str) -> None:
    made, dense, inputs = pair(kind)
    first, second = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    found, wanted = made(first), dense(second)
    upstream = torch.randn_like(found)
    (found * upstream).sum().backward()
    (wanted * upstream).sum().backward()
    torch.testing.assert_close(first.grad, second.grad)
    if dense.bias is not None:
        torch.testing.assert_close(made.bias.grad, dense.bias.grad)
    assert not list(made.stored.parameters())


def test_a_frozen_bias_gets_no_gradient_and_costs_no_pass() -> None:
    made, _, inputs = pair("linear")
    made.bias.requires_grad_(False)
    assert not made(inputs).requires_grad
    inputs.requires_grad_()
    made(inputs).sum().backward()
    assert made.bias.grad is None
    assert inputs.grad is not None


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_nothing_is_kept_for_the_backward_pass(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, inputs = pair(kind)
    expanded: list[weakref.ref[Tensor]] = []
    expand = LowBitWeight.expanded

    def watched(stored: LowBitWeight) -> Tensor:
        weight = expand(stored)
        expanded.append(weakref.ref(weight))
        return weight

    monkeypatch.setattr(LowBitWeight, "expanded", watched)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = made(inputs.requires_grad_())
    gc.collect()
    assert not kept
    assert [ref() for ref in expanded] == [None]  # nor is it held where no hook sees it
    output.sum().backward()
    gc.collect()
    assert [ref() for ref in expanded] == [None, None]


def test_a_backbone_keeps_no_weight_for_the_backward_pass() -> None:
    backbone = opened()
    rounded(backbone).settle()
    shapes = {layer.weight.shape for layer in backbone.modules() if isinstance(layer, LowBitLayer)}
    weights: list[bool] = []

    def measure(tensor: Tensor) -> Tensor:
        weights.append(tensor.shape in shapes)
        return tensor

    inputs = torch.randn(1, 3, 32, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(measure, lambda tensor: tensor):
        backbone(inputs).sum().backward()
    assert len(shapes) == 10  # six convolutions and four layers of each block
    assert weights
    assert not any(weights)
    assert inputs.grad is not None


def test_a_settled_backbone_holds_the_bytes_that_it_reports() -> None:
    backbone = opened()
    before = sum(tensor.numel() * tensor.element_size() for tensor in backbone.state_dict().values())
    low = rounded(backbone, bits=2)
    reported = low.packed_bytes()
    replaced = [weakref.ref(backbone.get_submodule(path)) for path in low.layers]  # none, after all
    assert all(isinstance(ref(), (LowBitLinear, LowBitConv2d)) for ref in replaced)
    low.settle()
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (*backbone.parameters(), *backbone.buffers())
    }
    assert sum(held.values()) == reported
    assert reported < before / 6


def test_settling_frees_the_weights_that_were_replaced() -> None:
    backbone = opened()
    places = [path for path, module in backbone.named_modules() if type(module) in MULTIPLYING]
    old = {path: weakref.ref(backbone.get_submodule(path).weight) for path in places}
    low = rounded(backbone)
    assert set(low.layers) == set(places)
    gc.collect()
    assert all(ref() is not None for ref in old.values())
    low.settle()
    gc.collect()
    assert [path for path, ref in old.items() if ref() is not None] == []
    with pytest.raises(QuantisedError, match="it stays quantised"):
        low.enabled = False


@pytest.mark.parametrize("kind", ["linear", "convolution", "depthwise"])
def test_half_precision_inputs_give_half_precision_outputs(kind: str) -> None:
    made, dense, inputs = pair(kind)
    half = inputs.bfloat16().requires_grad_()
    found = made(half)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, dense.bfloat16()(inputs.bfloat16()))
    found.sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    if made.bias is not None:
        assert made.bias.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_autocast_computes_in_half_precision_and_gives_the_input_its_gradient(kind: str) -> None:
    made, dense, inputs = pair(kind)
    first, second = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = made(first), dense(second)
    assert found.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted)
    found.float().square().sum().backward()
    wanted.float().square().sum().backward()
    assert first.grad.dtype == torch.float32
    torch.testing.assert_close(
        first.grad, second.grad, rtol=0.02, atol=0.05
    )  # of values up to 10 in bfloat16


def test_a_copy_shares_nothing_and_computes_the_same() -> None:
    backbone = opened()
    low = rounded(backbone)
    other = copy.deepcopy(backbone)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(other(images), backbone(images))
        low.enabled = False
        plain = backbone(images)
        assert not torch.equal(other(images), plain)
        other.quantised[0].enabled = False
        assert torch.equal(other(images), plain)


def test_the_switch_gives_the_backbone_back_bit_for_bit() -> None:
    backbone, images = opened(), torch.randn(2, 3, 32, 32)
    names = set(backbone.state_dict())
    with torch.no_grad():
        plain = backbone(images)
        low = rounded(backbone)
        quantised = backbone(images)
        for on, wanted in ((False, plain), (True, quantised), (False, plain)):
            low.enabled = on
            assert torch.equal(backbone(images), wanted)
    assert set(backbone.state_dict()) == names
    low.detach()
    rounded(backbone, bits=8)


def test_a_second_form_is_refused() -> None:
    backbone = opened()
    rounded(backbone)
    with pytest.raises(QuantisedError, match="quantised already"):
        rounded(backbone)


def test_expanding_is_done_in_single_precision_whatever_the_input() -> None:
    made, _, inputs = pair("linear")
    assert made.weight.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert made.weight.dtype == torch.float32
    wanted = F.linear(inputs, made.weight, made.bias)
    torch.testing.assert_close(made.multiply(inputs, made.weight, made.bias), wanted)
