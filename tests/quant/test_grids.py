"""Show that grids have the scales and zero points of their formulas, however odd the weights are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clbench.quant.parts.grids import GridName, codes_of, grid_of, in_groups
from clbench.quant.parts.low_bit_weight import LowBitWeight

ROW = torch.tensor([[-1.0, 0.0, 0.5, 2.0]])
NAMES: list[GridName] = ["asymmetric", "symmetric", "midrise"]


def rounded(
    matrix: Tensor, bits: int, name: GridName = "asymmetric", *, group: int = 0, scale_bits: int = 32
) -> LowBitWeight:
    groups = in_groups(matrix, group)
    grid = grid_of(groups, bits, name, scale_bits)
    return LowBitWeight.of(groups.joined(codes_of(groups, grid, bits)), *grid, bits)


@pytest.mark.parametrize(
    ("name", "bits", "scale", "zero", "codes"),
    [
        ("asymmetric", 2, 1.0, 1.0, [0, 1, 2, 3]),  # 0.5 is half-way: to the even code
        ("symmetric", 2, 2.0, 2.0, [2, 2, 2, 3]),
        ("symmetric", 3, 2 / 3, 4.0, [2, 4, 5, 7]),
        ("midrise", 2, 4 / 3, 1.5, [1, 2, 2, 3]),
        ("asymmetric", 1, 1.75, 0.5, [0, 0, 1, 1]),  # 2 mean|w| = 2 (3.5 / 4); 0 is a tie, to the even code
    ],
)
def test_the_numbers_of_a_row(name: GridName, bits: int, scale: float, zero: float, codes: list[int]) -> None:
    stored = rounded(ROW, bits, name)
    assert stored.scale.item() == pytest.approx(scale)
    assert stored.zero.item() == pytest.approx(zero)
    assert stored.codes().flatten().tolist() == codes


def test_one_bit_is_the_same_on_every_grid() -> None:
    matrix = torch.randn(4, 20)
    first, *others = (rounded(matrix, 1, name).expanded() for name in NAMES)
    assert all(torch.equal(first, other) for other in others)
    sizes = matrix.abs().mean(dim=1, keepdim=True).expand_as(matrix)
    torch.testing.assert_close(first, sizes * matrix.sign())


def test_half_precision_codes_are_computed_with_the_scale_that_is_held() -> None:
    matrix = torch.randn(50, 64)
    groups = in_groups(matrix, 0)
    stored = rounded(matrix, 8, scale_bits=16)
    assert stored.scale.dtype == stored.zero.dtype == torch.float16
    places = matrix / stored.scale.float() + stored.zero.float()
    assert torch.equal(stored.codes().float(), places.round().clamp(0, 255))
    # half a step, and what rounding a zero point of up to 255 to half precision moves the ends
    assert ((stored.expanded() - matrix).abs() / stored.scale.float()).max() < 0.6
    assert torch.equal(groups.joined(groups.values), matrix)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", [0, 5])
def test_values_come_out_half_a_step_off_at_most(bits: int, name: GridName, group: int) -> None:
    matrix = torch.randn(9, 13)
    stored = rounded(matrix, bits, name, group=group)
    width = -(-13 // stored.scale.shape[1])
    step = stored.scale.repeat_interleave(width, dim=1)[:, :13]
    assert ((stored.expanded() - matrix).abs() <= 0.5001 * step).all()


@pytest.mark.parametrize(
    ("columns", "group", "widths"),
    [
        (128, 64, [64, 64]),
        (147, 64, [49, 49, 49]),
        (100, 64, [50, 50]),
        (27, 64, [27]),
        (7, 3, [3, 3, 1]),
        (9, 0, [9]),
        (9, 1, [1] * 9),
    ],
)
def test_a_row_is_cut_as_evenly_as_can_be(columns: int, group: int, widths: list[int]) -> None:
    groups = in_groups(torch.randn(2, columns), group)
    assert groups.is_real.sum(dim=1).tolist() == widths
    assert rounded(torch.randn(2, columns), 2, group=group).scale.shape == (2, len(widths))


def test_what_fills_the_last_group_up_is_not_looked_at() -> None:
    matrix = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])
    groups = in_groups(matrix, 3)
    assert groups.low.tolist() == [[1, 4, 7]]
    assert groups.high.tolist() == [[3, 6, 7]]
    assert groups.mean(groups.values).tolist() == [[2, 5, 7]]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale_bits", [16, 32])
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e30, 1e37])
def test_no_weight_is_too_small_or_too_large(bits: int, name: GridName, scale_bits: int, size: float) -> None:
    matrix = size * torch.tensor([[0.0, 0, 0, 0], [-3, -2, -3, -1], [1, 2, -1, 0], [2, 2, 2, 2]])
    stored = rounded(matrix, bits, name, scale_bits=scale_bits)
    values = stored.expanded()
    assert values.isfinite().all()
    assert values[0].count_nonzero() == 0
    # the least half-precision scale is 6e-8; codes of fewer bits lie further apart
    step = {1: 1.5, 2: 1.6, 3: 0.8, 4: 0.4, 8: 0.03}[bits] * size
    assert ((values - matrix).abs() <= step + (6e-8 if scale_bits == 16 else 0)).all()


def test_scales_beyond_half_precision_are_held_in_single_precision() -> None:
    assert rounded(torch.randn(2, 8), 4, scale_bits=16).scale.dtype == torch.float16
    assert rounded(1e8 * torch.randn(2, 8), 4, scale_bits=16).scale.dtype == torch.float32


@pytest.mark.parametrize("value", [0.0, 5.1, -5.1, 1e-4, -300.0])
@pytest.mark.parametrize(("scale_bits", "relative"), [(16, 2.0**-11), (32, 2.0**-23)])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_constant_group_is_reproduced_as_exactly_as_scales_are_held(
    value: float, scale_bits: int, relative: float, bits: int
) -> None:
    matrix = torch.full((2, 6), value)
    found = rounded(matrix, bits, scale_bits=scale_bits).expanded()
    torch.testing.assert_close(found, matrix, rtol=relative, atol=6e-8 if scale_bits == 16 else 0)


def test_a_group_of_nearly_equal_values_far_from_zero_keeps_half_precision() -> None:
    matrix = -1000 + 1e-3 * torch.rand(3, 32)
    for scale_bits, relative in ((16, 2.0**-11), (32, 2.0**-22)):
        found = rounded(matrix, 8, scale_bits=scale_bits).expanded()
        torch.testing.assert_close(found, matrix, rtol=relative, atol=0)


def test_a_share_of_the_ends_cuts_off_what_lies_outside() -> None:
    groups = in_groups(ROW, 0)
    scale, zero = grid_of(groups, 2, "asymmetric", 32, share=0.5)
    assert (scale.item(), zero.item()) == (0.5, 1)
    assert codes_of(groups, (scale, zero), 2).flatten().tolist() == [0, 1, 2, 3]
