"""Show that AdaLog's levels are those of the paper, that integers give the same, and that the base fits."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from clbench.quant.parts.adaptive_log import AdaptiveLog, denominator, value_tables

QS = range(10, 138)


def adaptive_log(bits: int, q: int, scale: float = 1.0) -> AdaptiveLog:
    return AdaptiveLog(bits, scale=torch.tensor(scale), q=torch.tensor(float(q)))


def uniform_values(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_table_of_three_bits_is_the_published_one() -> None:
    shift, num = adaptive_log(3, 23).int_table()
    assert shift.tolist() == [0, 0, 1, 1, 2, 3, 3, 4]
    assert num.tolist() == [14, 9, 12, 8, 10, 13, 8, 11]
    values = [1, 0.642857, 0.428571, 0.285714, 0.178571, 0.116071, 0.071429, 0.049107]
    assert adaptive_log(3, 23).decoded(torch.arange(8)).tolist() == pytest.approx(values, abs=1e-6)


def test_table_of_four_bits_is_the_published_one() -> None:
    shift, num = adaptive_log(4, 23).int_table()
    assert num.tolist() == [30, 19, 25, 16, 21, 28, 18, 24, 15, 20, 26, 17, 22, 28, 18, 24]
    assert shift.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 6, 6, 7, 8, 8, 9]


def test_worked_example() -> None:
    rounding = adaptive_log(3, 23)
    values = torch.tensor([0.6, 0.05, 0.03, 0.0])
    assert rounding.codes(values).tolist() == [1, 7, 8, 8]  # 8 stands for zero
    assert rounding(values).tolist() == pytest.approx([0.642857, 0.049107, 0, 0], abs=1e-6)


def test_with_q_equal_to_r_it_is_a_logarithm_to_base_two() -> None:
    rounding = adaptive_log(3, 37)
    assert rounding.decoded(torch.arange(9)).tolist() == [2.0**-code for code in range(8)] + [0.0]
    values = uniform_values(10_000) ** 4
    codes = torch.round(-torch.log2(values))
    expected = torch.where(codes < 8, torch.exp2(-codes), torch.zeros_like(codes))
    assert torch.equal(rounding(values), expected)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_levels_have_their_own_codes(bits: int) -> None:
    for q in QS:
        rounding = adaptive_log(bits, q, scale=0.7)
        held_apart = torch.arange(2**bits) * q / 37 < 49  # octaves, above 1e-15
        codes = torch.arange(2**bits)[held_apart]
        assert torch.equal(rounding.codes(rounding.decoded(codes)), codes)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_numerators_have_one_bit_more_than_the_codes(bits: int) -> None:
    for q in QS:
        shift, num = adaptive_log(bits, q).int_table()
        assert num.min() >= 2**bits - 1
        assert num.max() <= 2 ** (bits + 1) - 2 == denominator(bits)
        assert shift.tolist() == [code * q // 37 for code in range(2**bits)]


def test_values_from_the_scale_on_become_the_scale_and_others_one_of_the_levels() -> None:
    rounding = adaptive_log(3, 31, scale=0.6)
    assert rounding(torch.tensor([0.6, 0.61, 5.0])).tolist() == [pytest.approx(0.6)] * 3
    levels = set(rounding.decoded(torch.arange(9)).tolist())
    assert set(rounding(uniform_values(1000) * 2 - 0.5).tolist()) == levels
    assert 0.0 in levels


def test_rounding_is_what_its_codes_stand_for() -> None:
    rounding = adaptive_log(4, 23, scale=1.3)
    values = uniform_values(7, 5, 11)
    assert torch.equal(rounding(values), rounding.decoded(rounding.codes(values)))
    assert torch.equal(rounding(values.double()), rounding(values).double())


@pytest.mark.parametrize(("bits", "q"), [(3, 23), (4, 19), (4, 80), (6, 10)])
def test_integer_product_is_exact(bits: int, q: int) -> None:
    rounding = adaptive_log(bits, q, scale=1.5)
    codes = rounding.codes(uniform_values(2, 5, 9) ** 3)
    operand = torch.randint(-15, 16, (2, 9, 4), generator=torch.Generator().manual_seed(1))
    product, factor = rounding.integer_product(codes, operand)
    shift, num = rounding.int_table()
    levels = [Fraction(int(n), 2 ** int(s)) for n, s in zip(num, shift, strict=True)] + [Fraction(0)]
    for index in [(0, 0, 0), (1, 4, 3), (1, 2, 1)]:
        image, row, column = index
        pairs = zip(codes[image, row].tolist(), operand[image, :, column].tolist(), strict=True)
        exact = sum((levels[code] * other for code, other in pairs), Fraction(0))
        deepest = int(shift[codes.clamp(max=2**bits - 1)].max())
        assert Fraction(int(product[index]), 2**deepest) == exact
    values = rounding.decoded(codes).double() @ operand.double()
    torch.testing.assert_close(product * factor, values, rtol=1e-6, atol=1e-6, check_dtype=False)


def test_integer_product_refuses_what_sixty_four_bits_do_not_hold() -> None:
    rounding = adaptive_log(6, 137)
    with pytest.raises(OverflowError, match="do not fit into 64 bits"):
        rounding.integer_product(torch.tensor([[0, 63]]), torch.tensor([[3], [4]]))


def test_gradient_is_the_identity_between_zero_and_the_scale() -> None:
    values = torch.tensor([-0.1, 0.2, 0.9, 1.1], requires_grad=True)
    adaptive_log(3, 23)(values).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 0]


def log_sqrt2(values: Tensor, bits: int) -> Tensor:
    """RepQ-ViT's rounding of probabilities, at scale 1."""
    codes = torch.round(-2 * torch.log2(values))
    levels = torch.exp2(-torch.ceil(codes / 2)) * torch.where(codes % 2 == 1, 2**0.5, 1.0)
    return torch.where(codes < 2**bits, levels, torch.zeros_like(levels))


def even(values: Tensor, bits: int) -> Tensor:
    """An even grid from 0 to 1."""
    return torch.round(values * (2**bits - 1)) / (2**bits - 1)


@pytest.mark.parametrize(
    ("bits", "best_q", "least", "others"),
    [(3, 34, 1.9e-5, [2.08e-5, 7.98e-5, 9.7e-5]), (4, 19, 5.5e-6, [1.9e-5, 5.7e-6, 4.3e-5])],
)
def test_best_base_for_probabilities_beats_fixed_ones_as_measured(
    bits: int, best_q: int, least: float, others: list[float]
) -> None:
    drawn = torch.randn(1000, 197, generator=torch.Generator().manual_seed(1))
    probs = (2 * drawn).softmax(dim=1)

    def error(rounded: Tensor) -> float:
        return float((rounded - probs).square().mean())

    errors = {q: error(adaptive_log(bits, q)(probs)) for q in range(10, 50)}
    found = min(errors, key=lambda q: errors[q])
    rivals = [errors[37], error(log_sqrt2(probs, bits)), error(even(probs, bits))]
    assert abs(found - best_q) <= 2
    assert [errors[found], *rivals] == pytest.approx([least, *others], rel=0.12)  # other draws differ so
    assert errors[found] < min(rivals)


def test_tables_of_many_bases_are_those_of_each() -> None:
    qs = torch.tensor([10.0, 23.0, 137.0])
    together = value_tables(qs, 4)
    for row, q in zip(together, qs, strict=True):
        assert torch.equal(row, adaptive_log(4, int(q)).decoded(torch.arange(17)))
