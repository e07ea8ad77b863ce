"""Show that even grids end where the values do, number for number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clbench.quant.minmax import MinMax
from clbench.quant.parts.even_grids import A_CHANNEL, ALL, from_extremes, from_largest
from clbench.quant.parts.places import Place
from clbench.quant.parts.uniform import Uniform

GENERATOR = torch.Generator()


def linear(*rows: list[float]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return layer


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_worked_example_of_an_even_grid() -> None:
    grid = Uniform(3, scale=torch.tensor(0.5), zero=torch.tensor(3.0))
    rounded = grid(torch.tensor([-2.0, -1.6, 0.2, 1.9, 5.0]))
    assert rounded.tolist() == [-1.5, -1.5, 0.0, 2.0, 2.0]


def test_an_asymmetric_grid_reaches_from_least_to_greatest() -> None:
    values = torch.tensor([-1.0, 0.4, 2.0])
    grid = from_extremes(values, ALL, 2)
    assert (grid.scale.item(), grid.zero.item()) == (1.0, 1.0)
    assert grid.codes(values).tolist() == [0, 1, 3]
    assert grid(values).tolist() == [-1.0, 0.0, 2.0]


def test_a_symmetric_grid_ends_half_a_step_short_of_the_largest() -> None:
    values = torch.tensor([-1.0, 0.5, 3.0])
    grid = from_largest(values, ALL, 2)
    assert (grid.scale.item(), grid.zero.item()) == (2.0, 2.0)  # 3 / 1.5
    assert grid.codes(values).tolist() == [2, 2, 3]  # -0.5 and 0.25 steps are none
    assert grid(values).tolist() == [0.0, 0.0, 2.0]


@pytest.mark.parametrize("value", [0.0, 5.0, -0.3])
def test_a_constant_is_its_own_grid(value: float) -> None:
    values = torch.full((2, 3), value)
    for lay in (from_extremes, from_largest):
        assert torch.isfinite(lay(values, A_CHANNEL, 4)(values)).all()
    assert torch.equal(from_extremes(values, A_CHANNEL, 4)(values), values)


def test_a_narrow_range_far_from_zero_keeps_its_steps() -> None:
    values = 10 + normal(1000) / 100
    error = (from_extremes(values, ALL, 4)(values) - values).abs().max()
    assert error <= 1.01 * (values.max() - values.min()) / 15 / 2 + 1e-5  # float32 of 10 is that fine


def test_no_value_is_further_off_than_half_a_step_and_the_zero_points_own_rounding() -> None:
    values = normal(4, 500)
    grid = from_extremes(values, A_CHANNEL, 5)
    assert ((grid(values) - values).abs() <= 1.001 * grid.scale).all()
    assert torch.equal(grid(grid(values)), grid(values))


def test_a_layers_channels_and_input_have_their_own_ranges() -> None:
    place = Place("layer", linear([-1.0, 2.0, 0.0], [0.0, 30.0, 15.0]))
    fitted = MinMax(bits=4, weight_bits=2).fit_layer(place, torch.tensor([[0.0, 7.5, 15.0]]), GENERATOR)
    assert fitted.weight.scale.tolist() == [[1.0], [10.0]]
    assert fitted.weight.expanded().tolist() == [[-1.0, 2.0, 0.0], [0.0, 30.0, 20.0]]  # 1.5 is even at 2
    assert isinstance(fitted.rounding, Uniform)
    assert (fitted.rounding.bits, fitted.rounding.scale.item()) == (4, 1.0)


def test_images_stay_in_float() -> None:
    place = Place("layer", nn.Conv2d(3, 4, 2), "pixels")
    fitted = MinMax().fit_layer(place, normal(2, 3, 4, 4), GENERATOR)
    assert fitted.rounding is None


def test_heads_have_their_own_ranges_but_probabilities_share_one() -> None:
    heads = normal(3, 2, 5, 4) * torch.tensor([1.0, 100.0]).view(1, 2, 1, 1)
    operands = {"queries": heads, "keys": heads, "values": heads, "probs": normal(3, 2, 5, 5).softmax(dim=-1)}
    for grid in ("asymmetric", "symmetric"):
        found = MinMax(grid=grid).fit_attention(operands, GENERATOR)
        small, large = found["queries"].get_buffer("scale").flatten()
        assert 30 < large / small < 300
        assert found["values"].get_buffer("scale").shape == (1, 2, 1, 1)
        assert found["probs"].get_buffer("scale").shape == ()


def test_a_symmetric_grid_has_its_zero_in_the_middle() -> None:
    place = Place("layer", linear([-1.0, 2.0, 0.0]))
    fitted = MinMax(bits=4, grid="symmetric").fit_layer(place, normal(5, 3).abs(), GENERATOR)
    assert isinstance(fitted.rounding, Uniform)
    assert (fitted.rounding.zero.item(), fitted.weight.zero.item()) == (8.0, 8.0)
