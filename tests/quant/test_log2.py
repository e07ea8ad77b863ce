"""Show that probabilities become powers of two, and what is too small becomes 0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clbench.quant.log2 import Log2
from clbench.quant.parts.logarithmic import Logarithmic
from clbench.quant.parts.places import Place
from clbench.quant.parts.uniform import Uniform

GENERATOR = torch.Generator()


def powers(bits: int) -> Logarithmic:
    return Logarithmic(bits, scale=torch.ones(()), steps=torch.ones(()))


def probabilities(*shape: int) -> Tensor:
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).softmax(dim=-1)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_powers_of_two_stay_what_they_are(bits: int) -> None:
    exact = torch.exp2(-torch.arange(2.0**bits))
    assert torch.equal(powers(bits)(exact), exact)
    assert powers(bits).codes(exact).tolist() == list(range(2**bits))


def test_a_value_goes_to_the_nearest_power_as_seen_in_logarithms() -> None:
    values = torch.tensor([1.0, 0.75, 0.7, 0.3, 0.01])  # -log2: 0, 0.42, 0.51, 1.74, 6.64
    assert powers(3).codes(values).tolist() == [0, 0, 1, 2, 7]
    assert powers(3)(values).tolist() == [1.0, 1.0, 0.5, 0.25, 2.0**-7]


def test_what_lies_beyond_the_last_level_is_zero_which_has_a_code_of_its_own() -> None:
    values = torch.tensor([2.0**-7, 2.0**-7.4, 2.0**-7.6, 2.0**-20, 0.0])
    assert powers(3).codes(values).tolist() == [7, 7, 8, 8, 8]
    assert powers(3)(values).tolist() == [2.0**-7, 2.0**-7, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_what_was_rounded_stays_what_it_is(bits: int) -> None:
    once = powers(bits)(probabilities(50, 197))
    assert torch.equal(powers(bits)(once), once)


def test_a_value_becomes_what_its_code_stands_for() -> None:
    values, rounding = probabilities(50, 197), powers(3)
    codes = rounding.codes(values)
    assert 0 < (codes == rounding.num_levels).float().mean() < 1
    assert torch.equal(rounding(values), rounding.decoded(codes))


def test_the_gradient_ends_above_the_scale_and_beyond_the_last_level() -> None:
    values = torch.tensor([1.2, 0.6, 0.001], requires_grad=True)
    powers(3)(values).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 1.0, 0.0]


def test_only_probabilities_are_logarithmic() -> None:
    tokens = torch.randn((2, 3, 5, 4), generator=torch.Generator().manual_seed(0))
    operands = {"queries": tokens, "keys": tokens, "values": tokens, "probs": probabilities(2, 3, 5, 5)}
    found = Log2().fit_attention(operands, GENERATOR)
    assert {name: type(rounding) for name, rounding in found.items()} == {
        "queries": Uniform,
        "keys": Uniform,
        "values": Uniform,
        "probs": Logarithmic,
    }
    assert torch.equal(found["probs"](operands["probs"]), powers(4)(operands["probs"]))
    after_gelu = Log2().fit_layer(Place("layer", nn.Linear(4, 2), "gelu"), tokens, GENERATOR)
    assert isinstance(after_gelu.rounding, Uniform)
