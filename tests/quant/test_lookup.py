"""Show that table look-up multiplies as defined: exact integers, and a product near that of the weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clbench.quant.parts.grids import GridName, codes_of, grid_of, in_groups
from clbench.quant.parts.lookup import (
    Tables,
    multiplied_by_lookup,
    patterns_of,
    product,
    signed_sums,
    tables_of,
    whole_part,
)
from clbench.quant.parts.low_bit_weight import LowBitWeight

BITS = [1, 2, 3, 4, 8]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(
    rows: int, columns: int, bits: int, *, group: int = 64, name: GridName = "asymmetric", seed: int = 1
) -> LowBitWeight:
    groups = in_groups(normal(rows, columns, seed=seed), group)
    grid = grid_of(groups, bits, name, 32)
    return LowBitWeight.of(groups.joined(codes_of(groups, grid, bits)), *grid, bits)


def drawn(
    rows: int, columns: int, bits: int, groups: int, scale: float = 0.1, zero: float = 0.3
) -> LowBitWeight:
    random = torch.Generator().manual_seed(bits)
    codes = torch.randint(2**bits, (rows, columns), generator=random)
    return LowBitWeight.of(codes, torch.full((rows, groups), scale), torch.full((rows, groups), zero), bits)


def nmse(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).square().sum() / wanted.square().sum())


def by_definition(inputs: Tensor, stored: LowBitWeight, group: int) -> tuple[Tensor, Tensor]:
    """Compute a (N, M, G) and y in double precision, quad after quad; a group is 64 inputs."""
    codes, x = stored.codes().long(), inputs.double()
    scale, zero, bits = stored.scale.double(), stored.zero.double(), stored.bits
    whole = torch.zeros(len(x), len(codes), codes.shape[1] // group, dtype=torch.int64)
    y = torch.zeros(len(x), len(codes), dtype=torch.float64)
    for g in range(whole.shape[2]):
        own = slice(g * group, (g + 1) * group)
        t = x[:, own].abs().view(len(x), -1, 4).sum(dim=2).amax(dim=1) / 127
        for k in range(g * group, (g + 1) * group, 4):
            for plane in range(bits):
                signs = 2 * ((codes[:, k : k + 4] >> plane) & 1) - 1
                sums = x[:, k : k + 4] @ signs.T.double()
                whole[:, :, g] += 2**plane * torch.round(sums / t[:, None]).long()
        looked_up = t[:, None] * whole[:, :, g] / 2
        y += scale[:, g] * (looked_up + ((2**bits - 1) / 2 - zero[:, g]) * x[:, own].sum(dim=1, keepdim=True))
    return whole, y


def test_the_worked_example() -> None:
    inputs = torch.tensor([[1.0, 2.0, -3.0, 4.0]])
    stored = LowBitWeight.of(torch.tensor([[0, 3, 1, 2]]), torch.ones(1, 1), torch.full((1, 1), 2.0), 2)
    assert stored.expanded().tolist() == [[-2, 1, -1, 0]]
    assert patterns_of(stored).flatten().tolist() == [6, 10]
    sums = signed_sums(inputs)[0]
    assert sums[[6, 10]].tolist() == [-6, 8]
    tables = tables_of(inputs, 1)
    assert tables.scale_NGR.item() == pytest.approx(10 / 127)
    assert tables.entries_NGRQT.flatten()[[6, 10]].tolist() == [-76, 102]
    assert tables.total_NG.item() == 4
    assert whole_part(tables, patterns_of(stored)).flatten().tolist() == [-76 + 2 * 102]
    found = multiplied_by_lookup(inputs, stored).item()
    assert found == pytest.approx(10 / 127 * 128 / 2 - 2)
    assert found == pytest.approx(3.03937, abs=1e-5)
    assert (inputs @ stored.expanded().T).item() == 3


def test_a_table_holds_all_signed_sums_and_mirrors_itself() -> None:
    quads = normal(5, 4)
    sums = signed_sums(quads)
    assert torch.equal(sums.flip(-1), -sums)
    torch.testing.assert_close(sums[:, 15], quads.sum(dim=1))
    torch.testing.assert_close(sums[:, 1], 2 * quads[:, 0] - quads.sum(dim=1))  # only the first is added
    torch.testing.assert_close(sums[:, 8], 2 * quads[:, 3] - quads.sum(dim=1))
    entries = tables_of(normal(3, 128), 2).entries_NGRQT
    assert torch.equal(entries.flip(-1), -entries)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("rows", "columns", "num_inputs"), [(16, 64, 1), (48, 128, 5), (32, 768, 3)])
def test_integers_are_exact_and_the_product_is_the_definition(
    bits: int, rows: int, columns: int, num_inputs: int
) -> None:
    stored, inputs = rounded(rows, columns, bits), normal(num_inputs, columns)
    whole, y = by_definition(inputs, stored, 64)
    found = whole_part(tables_of(inputs, columns // 64), patterns_of(stored))
    assert found.dtype == torch.int32
    # single precision may round a tie of double precision to the other side: by one, in a plane
    assert (found[..., 0].long() - whole).abs().max() <= 2 ** (bits - 1)
    assert (found[..., 0].long() != whole).float().mean() < 0.01
    tables = tables_of(inputs, columns // 64)
    of_whole = product(whole[..., None], tables, stored)
    assert float((of_whole - y).abs().max() / y.abs().max()) < 1e-5


@pytest.mark.parametrize("bits", BITS)
def test_integers_are_those_of_64_bit_arithmetic_on_the_same_tables(bits: int) -> None:
    stored, inputs = rounded(16, 256, bits), normal(16, 256)
    tables, patterns = tables_of(inputs, 4), patterns_of(stored)
    wanted = torch.zeros(16, 16, 4, 1, dtype=torch.int64)
    for plane in range(bits):
        for row in range(16):
            at = patterns[plane, row][None, ..., None].expand(16, -1, -1, -1, -1)
            found = tables.entries_NGRQT.long().gather(-1, at)[..., 0]
            wanted[:, row] += 2**plane * found.sum(dim=-1)
    assert torch.equal(whole_part(tables, patterns).long(), wanted)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["asymmetric", "symmetric", "midrise"])
def test_the_product_is_near_that_of_the_weight(bits: int, name: GridName) -> None:
    stored, inputs = rounded(64, 768, bits, name=name), normal(50, 768)
    assert nmse(multiplied_by_lookup(inputs, stored), inputs @ stored.expanded().T) < 2e-4


@pytest.mark.parametrize(("columns", "group"), [(768, 0), (27, 0), (147, 64), (49, 0), (100, 64), (3, 0)])
def test_rows_of_any_length_are_filled_up(columns: int, group: int) -> None:
    stored, inputs = rounded(20, columns, 3, group=group), normal(40, columns)
    assert nmse(multiplied_by_lookup(inputs, stored), inputs @ stored.expanded().T) < 2e-4


def test_a_group_of_zeros_gives_nothing() -> None:
    inputs = normal(4, 128)
    inputs[:, 64:] = 0
    stored = rounded(8, 128, 4)
    tables = tables_of(inputs, 2)
    assert tables.scale_NGR[:, 1].count_nonzero() == 0
    assert tables.entries_NGRQT[:, 1].count_nonzero() == 0
    assert nmse(multiplied_by_lookup(inputs, stored), inputs @ stored.expanded().T) < 2e-4
    assert multiplied_by_lookup(torch.zeros(2, 128), stored).count_nonzero() == 0


def test_a_single_huge_input_costs_its_own_group_alone() -> None:
    inputs = normal(1, 128)
    stored = rounded(8, 128, 2)
    before = whole_part(tables_of(inputs, 2), patterns_of(stored))
    inputs[0, 5] = 1e6
    after = whole_part(tables_of(inputs, 2), patterns_of(stored))
    assert torch.equal(before[:, :, 1], after[:, :, 1])
    assert int(tables_of(inputs, 2).entries_NGRQT.abs().max()) == 127
    assert nmse(multiplied_by_lookup(inputs, stored), inputs @ stored.expanded().T) < 2e-4


@pytest.mark.parametrize("zero", [-3.0, 0.0, 0.37, 7.5, 400.25])
def test_any_zero_point_is_right(zero: float) -> None:
    stored, inputs = drawn(16, 192, 4, 3, zero=zero), normal(10, 192)
    difference = multiplied_by_lookup(inputs, stored) - inputs @ stored.expanded().T
    # what tables are off does not depend on the zero point: that term is computed in float
    plain = drawn(16, 192, 4, 3, zero=7.5)
    expected = multiplied_by_lookup(inputs, plain) - inputs @ plain.expanded().T
    torch.testing.assert_close(difference, expected, atol=2e-3, rtol=0)  # sums of 400 x in single precision


def test_a_midrise_grid_needs_no_sum_of_the_inputs() -> None:
    stored, inputs = rounded(8, 64, 4, name="midrise"), normal(3, 64)
    tables = tables_of(inputs, 1)
    whole = whole_part(tables, patterns_of(stored))
    without = Tables(tables.entries_NGRQT, tables.scale_NGR, torch.full_like(tables.total_NG, 1e6))
    assert torch.equal(product(whole, tables, stored), product(whole, without, stored))


def test_uneven_levels_are_refused() -> None:
    stored = drawn(2, 8, 1, 1)
    uneven = LowBitWeight(stored.planes, stored.scale, stored.zero, 8, torch.tensor([-1.0, 2.0]))
    with pytest.raises(ValueError, match="these have levels"):
        multiplied_by_lookup(torch.ones(1, 8), uneven)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("num_inputs", [1, 2, 16, 197])
def test_integers_stay_exact_at_the_sizes_of_backbones(bits: int, num_inputs: int) -> None:
    stored, inputs = rounded(48, 3072, bits), normal(num_inputs, 3072)
    tables, patterns = tables_of(inputs, 48), patterns_of(stored)
    entries = tables.entries_NGRQT.flatten(1, 3).long()
    quads = torch.arange(entries.shape[1])
    wanted = torch.zeros(num_inputs, 48, 48, dtype=torch.int64)
    for plane in range(bits):
        found = entries[:, quads, patterns[plane].flatten(1)]
        wanted += 2**plane * found.view(num_inputs, 48, 48, 16).sum(dim=-1)
    assert torch.equal(whole_part(tables, patterns)[..., 0].long(), wanted)
    assert nmse(product(wanted[..., None], tables, stored), inputs @ stored.expanded().T) < 2e-4
