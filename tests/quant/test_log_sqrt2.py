"""Show the powers of sqrt 2, the choice between percentiles, and that channels share a grid without loss."""

from __future__ import annotations

from math import ceil, sqrt

import pytest
import torch
from torch import Tensor, nn

from clbench.quant.log_sqrt2 import LogSqrt2
from clbench.quant.low_bit_layers import LowBitLinear
from clbench.quant.parts.even_grids import asymmetric
from clbench.quant.parts.logarithmic import Logarithmic
from clbench.quant.parts.percentiles import PERCENTILES, even_grids, log_sqrt2
from clbench.quant.parts.places import Place
from clbench.quant.parts.quantiles import quantile
from clbench.quant.parts.uniform import Uniform

GENERATOR = torch.Generator()


def halves(bits: int, scale: float = 1.0) -> Logarithmic:
    return Logarithmic(bits, scale=torch.tensor(scale), steps=torch.tensor(2.0))


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", [3, 4])
def test_the_levels_are_shifts_and_one_of_two_scales(bits: int) -> None:
    codes = torch.arange(2**bits)
    paper = [0.8 * 2.0 ** -ceil(c / 2) * (sqrt(2) if c % 2 else 1) for c in codes.tolist()]
    assert halves(bits, 0.8).decoded(codes).tolist() == pytest.approx(paper, rel=1e-6)


def test_a_value_goes_to_the_nearest_power_as_seen_in_logarithms() -> None:
    values = torch.tensor([1.0, 0.7, 0.5, 0.3, 0.1])  # -2 log2: 0, 1.03, 2, 3.47, 6.64
    assert halves(3).codes(values).tolist() == [0, 1, 2, 3, 7]
    assert halves(3)(values).tolist() == pytest.approx([1, sqrt(0.5), 0.5, sqrt(0.125), sqrt(2**-7)])


def test_what_is_above_the_scale_becomes_the_scale_and_what_is_too_small_zero() -> None:
    values = torch.tensor([1.0, 0.8, 0.8 * 2**-3.7, 0.8 * 2**-3.8, 0.0])
    assert halves(3, 0.8)(values).tolist() == pytest.approx([0.8, 0.8, 0.8 * 2**-3.5, 0.0, 0.0])


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_what_was_rounded_stays_what_it_is(bits: int) -> None:
    rounding = halves(bits, 0.8)
    levels = rounding.decoded(torch.arange(2**bits))
    assert rounding.codes(levels).tolist() == list(range(2**bits))
    once = rounding((2 * normal(50, 197)).softmax(dim=-1))
    assert torch.equal(rounding(once), once)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999, 1.0])
def test_a_quantile_is_torchs(share: float) -> None:
    values = normal(3, 1234)
    ours = quantile(values.sort(dim=1).values, share)
    torch.testing.assert_close(ours, values.quantile(share, dim=1, keepdim=True), rtol=1e-4, atol=1e-5)


def test_the_percentile_with_the_least_squared_error_is_taken() -> None:
    values = normal(3, 40_000)
    values[0, :4] = torch.tensor([9.0, -9.0, 9.0, -9.0])  # 1e-4 of all: between the second and the third
    values[1, :2] = torch.tensor([60.0, -60.0])
    chosen = even_grids(values, 4)
    errors = []
    for p in PERCENTILES:
        low, high = (values.quantile(share, dim=1, keepdim=True) for share in (1 - p, p))
        errors.append((asymmetric(low, high, 4)(values) - values).square().sum(dim=1))
    least = torch.stack(errors).amin(dim=0)
    torch.testing.assert_close((chosen(values) - values).square().sum(dim=1), least, rtol=1e-3, atol=1e-3)
    assert chosen.scale[1] < 1  # not 120 / 15


def test_the_scale_of_probabilities_is_the_best_of_three() -> None:
    probs = (2 * normal(200, 197)).softmax(dim=-1)
    found = log_sqrt2(probs, 4)
    tried = [halves(4, probs.flatten().quantile(p).item()) for p in PERCENTILES]
    least = min((rounding(probs) - probs).square().sum() for rounding in tried)
    # torch places its quantile in single precision
    assert (found(probs) - probs).square().sum() == pytest.approx(float(least), rel=1e-3)


def test_probabilities_that_are_all_zero_are_rounded_to_zero() -> None:
    nothing = torch.zeros(2, 2, 3, 3)
    assert torch.equal(log_sqrt2(nothing, 4)(nothing), nothing)


def test_behind_a_norm_all_channels_share_a_grid_and_the_layer_computes_the_same() -> None:
    layer = nn.Linear(16, 8)
    inputs = normal(64, 5, 16) * torch.logspace(-1, 1, 16) + torch.linspace(-2, 2, 16)
    fitted = LogSqrt2(bits=8).fit_layer(Place("layer", layer, "norm"), inputs, GENERATOR)
    low_bit = LowBitLinear(layer, fitted.weight, rounding=fitted.rounding, **fitted.around)
    exact = layer(inputs)
    assert (low_bit(inputs) - exact).norm() < 0.02 * exact.norm()
    plain = LogSqrt2(bits=8).fit_layer(Place("layer", layer, "other"), inputs, GENERATOR)
    coarser = LowBitLinear(layer, plain.weight, rounding=plain.rounding)
    assert (low_bit(inputs) - exact).norm() < (coarser(inputs) - exact).norm()


def test_the_shared_grid_is_the_mean_of_the_channels_with_a_whole_zero_point() -> None:
    inputs = normal(500, 16) * torch.logspace(-1, 1, 16)
    fitted = LogSqrt2().fit_layer(Place("layer", nn.Linear(16, 8), "norm"), inputs, GENERATOR)
    grids = even_grids(inputs.T, 4)
    assert isinstance(fitted.rounding, Uniform)
    torch.testing.assert_close(fitted.rounding.scale, grids.scale.mean())
    assert fitted.rounding.zero == torch.round(grids.zero.mean())
    torch.testing.assert_close(fitted.around["ratio"], grids.scale[:, 0] / grids.scale.mean())


def test_a_convolution_behind_a_norm_has_one_grid_for_its_input() -> None:
    fitted = LogSqrt2().fit_layer(Place("layer", nn.Conv2d(4, 8, 1), "norm"), normal(2, 4, 5, 5), GENERATOR)
    assert not fitted.around
    assert isinstance(fitted.rounding, Uniform)
    assert fitted.rounding.scale.shape == ()


def test_heads_have_their_own_ranges() -> None:
    heads = normal(3, 2, 5, 4) * torch.tensor([1.0, 100.0]).view(1, 2, 1, 1)
    operands = {"queries": heads, "keys": heads, "values": heads, "probs": normal(3, 2, 5, 5).softmax(dim=-1)}
    found = LogSqrt2().fit_attention(operands, GENERATOR)
    small, large = found["keys"].get_buffer("scale").flatten()
    assert 30 < large / small < 300
    assert isinstance(found["probs"], Logarithmic)
    assert found["probs"].steps == 2
