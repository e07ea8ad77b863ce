"""Show what the search for symmetric grids looks at, and that it finds the best of its candidates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clbench.quant.base_ptq import BasePTQ
from clbench.quant.parts.alternating import alternated, best, scaled, shares
from clbench.quant.parts.deviations import Angle, WeightedSquares
from clbench.quant.parts.even_grids import A_CHANNEL, ALL, symmetric, symmetric_scale
from clbench.quant.parts.observed import rows_of
from clbench.quant.parts.places import Place
from clbench.quant.parts.products import layer_product, output_rows
from clbench.quant.parts.sampled import ROWS, sampled_images, sampled_rows
from clbench.quant.parts.uniform import Uniform


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawing() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_candidates_are_101_shares_with_the_nearest_to_one_first() -> None:
    points = shares(0.5, 1.2)
    assert len(points) == 101
    expected = [0.5 + i * (1.2 - 0.5) / 100 for i in range(101)]
    assert points.sort().values.tolist() == pytest.approx(expected)
    assert points[0] == pytest.approx(0.997)


def test_the_angle_does_not_see_lengths() -> None:
    exact = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert Angle(exact).whole(2 * exact) == pytest.approx(0, abs=1e-6)
    turned = torch.tensor([[4.0, 3.0], [0.0, 7.0]])  # cosines 24 / 25 and 0
    assert Angle(exact).whole(turned) == pytest.approx(1 - 0.48)
    # columns: (3, 1) and (4, 0), (4, 0) and (3, 7)
    cosines = [12 / (10**0.5 * 4), 12 / (4 * 58**0.5)]
    assert Angle(exact).along(turned, 1)[0].tolist() == pytest.approx([1 - cosine for cosine in cosines])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4),
        nn.Conv2d(6, 4, 3, padding=1, stride=2, groups=2),
        nn.Conv2d(6, 6, 3, groups=6, bias=False),
    ],
)
def test_a_layers_product_of_rows_is_its_output(layer: nn.Linear | nn.Conv2d) -> None:
    inputs = normal(2, 5, 6) if isinstance(layer, nn.Linear) else normal(2, 6, 7, 7)
    product = layer_product(layer)(layer.weight.flatten(1), rows_of(layer, inputs))
    torch.testing.assert_close(product, output_rows(layer, layer(inputs)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(6, 4, 3, padding=1, groups=2)])
def test_rows_are_a_sample_of_those_that_the_layer_has(layer: nn.Linear | nn.Conv2d) -> None:
    inputs = normal(30, 49, 6) if isinstance(layer, nn.Linear) else normal(30, 6, 7, 7)
    every = rows_of(layer, inputs)
    rows = sampled_rows(layer, inputs, drawing())
    assert len(rows.indices) == len(rows.indices.unique()) == ROWS
    assert torch.equal(rows.inputs, every[:, rows.indices])
    again = sampled_rows(layer, inputs, drawing())
    assert torch.equal(again.indices, rows.indices)
    few = sampled_rows(layer, inputs, drawing(), among=torch.tensor([3, 50, 1400]))
    assert few.indices.tolist() == [3, 50, 1400]
    assert torch.equal(few.inputs, every[:, few.indices])
    all_of_two = sampled_rows(layer, inputs[:2], drawing())
    assert torch.equal(all_of_two.inputs, every[:, :98])


def test_images_of_an_attention_have_about_as_many_rows() -> None:
    assert len(sampled_images(torch.zeros(64, 2, 196, 4), drawing())) == 5
    assert len(sampled_images(torch.zeros(64, 2, 5000, 4), drawing())) == 1
    assert sampled_images(torch.zeros(3, 2, 4, 4), drawing()).tolist() == [0, 1, 2]


def test_every_channel_gets_its_own_best_candidate() -> None:
    layer = nn.Linear(32, 5)
    rows, weight = normal(1, 64, 32), normal(5, 32, seed=1) ** 3
    multiply = layer_product(layer)
    exact = multiply(weight, rows)
    error = WeightedSquares(exact, torch.ones_like(exact))
    scale, points = symmetric_scale(weight, A_CHANNEL, 3), shares(0.3, 1.2)
    operand = scaled(weight, scale, 3, points, lambda output: error.along(output, 1).T)
    found = best(operand, lambda weight: multiply(weight, rows))
    for channel in range(5):
        errors = [
            (multiply(symmetric(scale * share, 3)(weight), rows) - exact)[:, channel].square().sum()
            for share in points
        ]
        least = points[int(torch.stack(errors).argmin())]
        assert found.scale[channel] == scale[channel] * least
    assert len(found.scale.unique()) > 1


def test_of_equally_good_candidates_the_nearest_to_one_is_taken() -> None:
    values = normal(4, 4)
    operand = scaled(values, torch.ones(()), 4, shares(0.01, 1.2), lambda _: torch.zeros(()))
    assert best(operand, lambda values: values).scale == pytest.approx(1, abs=0.01)


def test_more_rounds_never_end_with_a_greater_error() -> None:
    layer = nn.Linear(32, 8, bias=False)
    rows, weight = normal(1, 100, 32) ** 3, normal(8, 32, seed=1) ** 3
    multiply = layer_product(layer)
    exact = multiply(weight, rows)
    error = WeightedSquares(exact, torch.ones_like(exact))
    points = shares(0.01, 1.2)
    first = scaled(
        weight, symmetric_scale(weight, A_CHANNEL, 3), 3, points, lambda output: error.along(output, 1).T
    )
    second = scaled(rows, symmetric_scale(rows, ALL, 3), 3, points, error.whole)
    errors = []
    for rounds in (0, 1, 2, 3):
        one, other = alternated(first, second, multiply, rounds)
        errors.append(float(error.whole(multiply(one(weight), other(rows)))))
    assert errors[0] > errors[1] >= errors[2] >= errors[3]


def test_a_search_turns_a_layers_output_less_than_the_largest_magnitude_does() -> None:
    layer = nn.Linear(32, 16)
    inputs = normal(100, 32) ** 3
    fitted = BasePTQ(bits=4).fit_layer(Place("layer", layer), inputs, drawing())
    assert fitted.weight.scale.shape == (16, 1)
    assert isinstance(fitted.rounding, Uniform)
    assert fitted.rounding.scale.shape == ()
    shares_taken = fitted.weight.scale / symmetric_scale(layer.weight.detach(), A_CHANNEL, 4)
    assert (shares_taken > 0.499).all()
    assert (shares_taken < 1.201).all()
    angle = Angle(layer(inputs))
    plain = symmetric(symmetric_scale(layer.weight.detach(), A_CHANNEL, 4), 4)(layer.weight.detach())
    rounded = symmetric(symmetric_scale(inputs, ALL, 4), 4)(inputs)
    before = angle.whole(nn.functional.linear(rounded, plain, layer.bias))
    after = angle.whole(nn.functional.linear(fitted.rounding(inputs), fitted.weight.expanded(), layer.bias))
    assert after < before


def test_an_attentions_operands_have_one_symmetric_grid_each() -> None:
    tokens = normal(4, 2, 9, 8)
    operands = {
        "queries": tokens,
        "keys": normal(4, 2, 9, 8, seed=1),
        "probs": normal(4, 2, 9, 9).softmax(dim=-1),
        "values": tokens,
    }
    found = BasePTQ().fit_attention(operands, drawing())
    assert found.keys() == operands.keys()
    for rounding in found.values():
        assert isinstance(rounding, Uniform)
        assert (rounding.scale.shape, rounding.zero.item()) == ((), 8.0)
