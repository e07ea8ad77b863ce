"""Layers multiply by kernels without being told to, learn through them, and hold what they report."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from clbench.evaluate.flops import count_flops
from clbench.quant.kernels import library, torch_operator
from clbench.quant.low_bit_layers import LowBitLinear
from clbench.quant.rtn import RoundToNearest

HERE = library.running()
BITS = (1, 2, 3, 4, 8)

pytestmark = pytest.mark.skipif(not HERE, reason="installed without kernels, or none runs on this processor")


@pytest.fixture(params=[f"{name}:{way}" for name in HERE for way in library.WAYS])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A set and a way to multiply, pinned."""
    monkeypatch.setenv(library.VARIABLE, request.param)
    pinned: str = request.param
    return pinned


def layer(bits: int, *, seed: int = 0) -> LowBitLinear:
    torch.manual_seed(seed)
    plain = nn.Linear(128, 40)
    return LowBitLinear(plain, RoundToNearest(bits=bits, group=64).stored(plain.weight.detach()))


def gap(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).detach().norm() / wanted.detach().norm())


def portable(made: LowBitLinear, inputs: Tensor) -> Tensor:
    return nn.functional.linear(inputs, made.weight, made.bias)


@pytest.mark.parametrize("bits", BITS)
def test_a_layer_multiplies_by_kernels(bits: int, kernels: str) -> None:
    made, inputs = layer(bits), torch.randn(2, 9, 128)
    wanted = portable(layer(bits), inputs)
    with torch.no_grad():
        found = made(inputs)
        assert found.shape == (2, 9, 40)
        assert gap(found, wanted) < 0.02
        assert gap(made(inputs.bfloat16()), wanted) < 0.03
        assert made(inputs.bfloat16()).dtype == torch.bfloat16
        assert gap(made(inputs.transpose(0, 1)), wanted.transpose(0, 1)) < 0.02  # with gaps
    assert (made.stored.in_order() is not None) == (library.kernels_for(bits) is not None)


@pytest.mark.parametrize("bits", BITS)
def test_gradients_reach_the_input_and_the_bias_and_are_those_of_the_weight(bits: int, kernels: str) -> None:
    made, inputs = layer(bits), torch.randn(7, 128, requires_grad=True)
    upstream = torch.randn(7, 40)
    (made(inputs) * upstream).sum().backward()
    assert inputs.grad is not None
    assert made.bias.grad is not None
    torch.testing.assert_close(inputs.grad, upstream @ layer(bits).weight)
    torch.testing.assert_close(made.bias.grad, upstream.sum(dim=0))


@pytest.mark.parametrize("bits", BITS)
def test_what_is_saved_copied_and_moved_is_the_same_before_and_after(bits: int, kernels: str) -> None:
    made, inputs = layer(bits), torch.randn(3, 128)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    num_bytes = made.stored.num_bytes
    with torch.no_grad():
        said = made(inputs)
        other = copy.deepcopy(made)
        for each in (other, pickle.loads(pickle.dumps(made))):
            assert torch.equal(each(inputs), said)
        after = made.state_dict()
        assert set(after) == set(before)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert made.stored.num_bytes == num_bytes
        other.load_state_dict(layer(bits, seed=1).state_dict())
        assert not torch.equal(other(inputs), said)
        assert torch.equal(made.to(torch.device("cpu"))(inputs), said)
        assert torch.equal(made(inputs), said)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_planes_are_not_held_twice(bits: int, kernels: str) -> None:
    made = layer(bits)
    with torch.no_grad():
        made(torch.randn(3, 128))
    held = made.stored.in_order()
    assert held is not None
    assert "planes" not in dict(made.stored.named_buffers())
    tile = {"avx512": 16, "avx2": 32, "neon": 16}[held.kernels]
    rows = -(-40 // tile) * tile
    assert held.num_bytes == rows * 128 * bits // 8 + rows * 2 * 4  # two groups, a pair of float16 each


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_flops_are_those_of_torch(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, inputs = layer(bits), torch.randn(2, 9, 128, requires_grad=True)

    def step() -> None:
        made(inputs).sum().backward()

    wanted = 2 * 2 * 18 * 128 * 40  # forward, and back to the input
    for used in (library.PORTABLE, *HERE):
        monkeypatch.setenv(library.VARIABLE, used)
        made = layer(bits)
        assert count_flops(step) == wanted
        with FlopCounterMode(display=False) as theirs:
            step()
        assert theirs.get_total_flops() == wanted


def test_a_graph_to_be_run_elsewhere_has_torchs_own_operators(kernels: str) -> None:
    made, inputs = layer(4), torch.randn(3, 128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.5 warns of the constant table in it
        graph = torch.export.export(made, (inputs,), strict=False)
        again = graph.module()
    assert not [node for node in graph.graph.nodes if "clbench" in str(node.target)]
    with torch.no_grad():
        torch.testing.assert_close(again(inputs), portable(made, inputs))


def test_what_is_in_order_is_multiplied_by_torch_where_that_is_asked_for(kernels: str) -> None:
    made, inputs = layer(4), torch.randn(3, 128)
    with torch.no_grad():
        before = made(inputs)
        with library.portable():
            torch.testing.assert_close(made(inputs), portable(made, inputs))
            assert "planes" in dict(made.stored.named_buffers())
        assert torch.equal(made(inputs), before)


def test_shapes_are_told_without_values(kernels: str) -> None:
    made = layer(4)
    with torch.no_grad():
        made(torch.randn(3, 128))
    held = made.stored.in_order()
    assert held is not None
    shape = torch_operator.product(held, torch.empty(5, 7, 128), None, held.ways()[0]).shape
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        told = torch_operator.product(held, fake.from_tensor(torch.empty(5, 7, 128)), None, held.ways()[0])
    assert told.shape == shape == (5, 7, 40)
