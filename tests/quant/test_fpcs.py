"""Show that candidates are those of the paper, that their errors are right, and that refining them helps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clbench.quant.parts.adaptive_log_operand import AdaptiveLogOperand
from clbench.quant.parts.fpcs import Candidates, best, crossed, spread, uniform_candidates
from clbench.quant.parts.output_error import OutputError, values_in
from clbench.quant.parts.own_error import VALUES_OF_A_LOOK_UP, OwnError
from clbench.quant.parts.searched import Effort, Searched, by_turns
from clbench.quant.parts.uniform import Uniform
from clbench.quant.parts.uniform_operand import UniformOperand

EFFORT = Effort(candidates=128, steps=6, num_values=10_000)
FIRST_GRID = Effort(candidates=128, steps=1, num_values=10_000)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_even_grid_rounds_as_in_the_worked_example() -> None:
    grid = Uniform(3, scale=torch.tensor(0.5), zero=torch.tensor(3.0))
    rounded = grid(torch.tensor([-2, -1.6, 0.2, 1.9, 5]))
    assert rounded.tolist() == [-1.5, -1.5, 0, 2, 2]


def test_first_candidates_are_all_pairs_of_scales_and_zero_points() -> None:
    first = uniform_candidates(
        torch.tensor(15.0), torch.tensor(30.0), torch.tensor(8.0), bits=4, num=16, num_zeros=4
    )
    pairs = {(scale.item(), zero.item()) for scale, zero in zip(first.scale, first.partner, strict=True)}
    scales = torch.linspace(1, 2, 4).tolist()
    assert pairs == {(scale, zero) for scale in scales for zero in (6, 7, 8, 9)}
    assert first.spacing.item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("middle", "zeros"), [(0.0, [0, 1, 2, 3]), (15.0, [12, 13, 14, 15]), (-7, [0, 1, 2, 3])]
)
def test_zero_points_are_codes(middle: int, zeros: list[int]) -> None:
    ends = torch.tensor(15.0), torch.tensor(30.0)
    first = uniform_candidates(*ends, torch.tensor(float(middle)), bits=4, num=16, num_zeros=4)
    assert first.partner.unique().tolist() == zeros


def test_scales_around_a_pair_span_its_spacing_and_keep_its_partner() -> None:
    candidates = Candidates(torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0]), torch.tensor(0.4))
    finer = candidates.around(torch.tensor([1]), 4)
    assert finer.scale.tolist() == pytest.approx([1.8, 2 - 0.2 / 3, 2 + 0.2 / 3, 2.2])
    assert finer.partner.tolist() == [6] * 4
    assert finer.spacing.item() == pytest.approx(0.4 / 3.5)


def test_each_granule_is_searched_by_itself() -> None:
    goals = torch.tensor([1.234, 1.777, 1.0])
    scales = spread(torch.ones(3), torch.full((3,), 2.0), 16)
    candidates = crossed(scales, torch.tensor([[3.0] * 3, [4.0] * 3]))

    def error(scale: Tensor, partner: Tensor) -> Tensor:
        return (scale - goals).abs() + (partner - torch.tensor([3.0, 4.0, 3.0])).abs()

    scale, partner = best(candidates, error, steps=6, around=8)
    assert scale.tolist() == pytest.approx(goals.tolist(), abs=1e-4)
    assert partner.tolist() == [3, 4, 3]


def test_best_of_all_steps_is_kept() -> None:
    scales = spread(torch.tensor(1.0), torch.tensor(2.0), 16)

    def only_a_grid_point(scale: Tensor, partner: Tensor) -> Tensor:
        return 1 - (scale == scales[5]).float()

    scale, _ = best(crossed(scales, torch.zeros(2)), only_a_grid_point, steps=6, around=8)
    assert scale == scales[5]


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("less", [0, 1])  # from sums, and value by value
def test_errors_of_values_themselves_are_those_of_the_rounded_values(bits: int, less: int) -> None:
    values = normal(3, VALUES_OF_A_LOOK_UP * 2**bits - less)
    scale = torch.rand(20, 3, generator=torch.Generator().manual_seed(1)) + 0.1
    zero = torch.ones(20, 3)
    errors = OwnError(values).uniform(scale, zero, bits=bits)
    grids = Uniform(bits, scale=scale[..., None], zero=zero[..., None])
    expected = (grids(values) - values).square().mean(dim=-1)
    torch.testing.assert_close(errors, expected.double(), rtol=1e-5, atol=1e-7)


def test_quantiles_are_those_of_torch() -> None:
    values = normal(3, 57)
    for share in (0, 0.1, 0.5, 0.9, 1):
        torch.testing.assert_close(OwnError(values).quantile(share), values.quantile(share, dim=1))


@pytest.mark.parametrize("shapes", [((7, 5), (9, 5)), ((9, 5), (3, 5)), ((2, 3, 7, 5), (2, 3, 6, 5))])
def test_errors_by_gram_matrices_are_the_direct_ones_and_those_of_the_outputs(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    operand, other = normal(*shapes[0]), normal(*shapes[1], seed=1)
    other_rounded = torch.round(other * 4) / 4
    scale = torch.linspace(0.2, 0.6, 11).view(-1, *[1] * (operand.ndim - 1))

    def rounder(seen: Tensor, scale: Tensor, partner: Tensor) -> Tensor:
        return torch.round(seen / scale) * scale

    found = [
        OutputError(operand, other, other_rounded, by_gram=by_gram).of(operand, rounder, scale, scale, 100)
        for by_gram in (True, False, None)
    ]
    for candidate, one in enumerate(scale.flatten()):
        output = rounder(operand, one, one) @ other_rounded.mT
        expected = (output - operand @ other.mT).square().sum().double()
        for errors in found:
            torch.testing.assert_close(errors[candidate].sum(), expected, rtol=1e-4, atol=1e-6)


def test_errors_by_gram_matrices_hold_at_eight_bits_where_squares_of_outputs_would_cancel() -> None:
    operand, other = 10 + normal(400, 8), 10 + normal(300, 8, seed=1)
    other_rounded = torch.round(other * 100) / 100
    scale = torch.full((1, 1), 0.01)

    def rounder(seen: Tensor, scale: Tensor, partner: Tensor) -> Tensor:
        return torch.round(seen / scale) * scale

    exact = operand.double() @ other.double().mT
    rounded = rounder(operand, scale, scale).double() @ other_rounded.double().mT
    for by_gram in (True, False):
        errors = OutputError(operand, other, other_rounded, by_gram=by_gram).of(
            operand, rounder, scale, scale, 10**6
        )
        torch.testing.assert_close(errors.sum(), (exact - rounded).square().sum(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("granules", [(1, 1), (1, 6), (2, 1), (2, 6)])
def test_how_many_numbers_are_looked_at_at_once_changes_nothing(granules: tuple[int, int]) -> None:
    operand, other = normal(2, 6, 5), normal(2, 9, 5, seed=1)
    error = OutputError(operand, other, torch.round(other))
    scale = torch.rand(10, *granules, generator=torch.Generator().manual_seed(2)) + 0.1

    def rounder(seen: Tensor, scale: Tensor, partner: Tensor) -> Tensor:
        return torch.round(seen / scale) * scale

    whole = error.of(operand, rounder, scale, scale, 10**6)
    assert whole.shape == (10, *granules)
    for num_values in (1, 25, 130):
        torch.testing.assert_close(error.of(operand, rounder, scale, scale, num_values), whole)


def test_budget_is_what_candidates_take() -> None:
    assert values_in(4) == 2**18
    assert values_in(1e-9) == 1


def operands(effort: Effort, kind: str) -> tuple[Searched, Tensor]:
    values, other = normal(1, 60, 12), normal(1, 20, 12, seed=1)
    if kind == "gelu":
        made: Searched = AdaptiveLogOperand(
            torch.nn.functional.gelu(values), 4, effort, shift=0.17, has_scale=True
        )
    elif kind == "probs":
        made = AdaptiveLogOperand((3 * values).softmax(dim=-1), 4, effort)
    else:
        granules = {"rows": (1, 60), "whole": (1, 1)}[kind]
        made = UniformOperand(values, 4, effort, granules, is_input=kind == "whole")
    return made, other


def output_error(operand: Searched, other: Tensor) -> float:
    return float(((operand.rounded - operand.values) @ other.mT).square().sum())


@pytest.mark.parametrize("kind", ["rows", "whole", "gelu", "probs"])
def test_refining_is_never_worse_than_the_first_grid_and_that_not_than_the_start(kind: str) -> None:
    (plain, other), (fine, _) = operands(FIRST_GRID, kind), operands(EFFORT, kind)
    start = output_error(plain, other)
    plain.search(other, other)
    fine.search(other, other)
    assert output_error(fine, other) <= output_error(plain, other) <= start


def test_operand_starts_where_its_own_error_is_least() -> None:
    operand = UniformOperand(normal(1, 60, 12), 4, EFFORT, (1, 60))
    first = operand.candidates
    for scale, zero in zip(first.scale, first.partner, strict=True):
        grid = Uniform(4, scale=scale[:, None], zero=zero[:, None])
        of_candidate = (grid(operand.values[0]) - operand.values[0]).square().mean(dim=1)
        of_start = (operand.rounded[0] - operand.values[0]).square().mean(dim=1)
        assert (of_start <= of_candidate + 1e-6).all()


def test_values_that_are_all_positive_are_not_cut_off() -> None:
    values = 1 + torch.rand(1, 5, 40, generator=torch.Generator().manual_seed(0))
    for granules in ((1, 5), (1, 1)):
        operand = UniformOperand(values, 8, EFFORT, granules, is_input=granules == (1, 1))
        torch.testing.assert_close(operand.rounded, values, atol=2 / 255, rtol=0)


def test_what_leaves_a_gelu_may_be_all_negative() -> None:
    values = -0.16 * torch.rand(1, 30, 4, generator=torch.Generator().manual_seed(0))
    operand = AdaptiveLogOperand(values, 4, EFFORT, shift=0.17, has_scale=True)
    operand.search(*[normal(1, 6, 4)] * 2)
    assert (operand.rounded - values).abs().max() < 0.1


def test_what_is_found_rounds_as_the_search_did() -> None:
    for kind in ("rows", "whole", "gelu", "probs"):
        operand, other = operands(EFFORT, kind)
        operand.search(other, other)
        assert isinstance(operand, (UniformOperand, AdaptiveLogOperand))
        shift = 0.17 if kind == "gelu" else 0.0
        found = operand.rounding()(operand.values + shift) - shift
        torch.testing.assert_close(found, operand.rounded, rtol=0, atol=1e-6)


def test_both_operands_take_their_turns() -> None:
    first = UniformOperand(normal(2, 3, 6, 4), 3, EFFORT, (1, 3, 1))
    second = UniformOperand(normal(2, 3, 5, 4, seed=1), 3, EFFORT, (1, 3, 1))

    def error() -> float:
        exact = first.values @ second.values.mT
        return float((first.rounded @ second.rounded.mT - exact).square().sum())

    before = error()
    by_turns(first, second, 2)
    assert error() < before
    assert first.rounding().scale.shape == (1, 3, 1, 1)
