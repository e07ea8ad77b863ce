"""Kernels multiply as they are defined to: integer parts exactly, results up to what eight bits lose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from clbench.quant.kernels import library
from clbench.quant.kernels.kernel_layer import KernelLayer, Way
from clbench.quant.parts.lookup import multiplied_by_lookup, patterns_of
from clbench.quant.parts.low_bit_weight import LowBitWeight

HERE = library.running()
KINDS = [
    (name, bits, way)
    for name in HERE
    for bits in (1, 2, 3, 4, 8)
    for way in (Way.LOOK_UP, Way.IN_BYTES)
    if library.can(name, way, bits)
]
SHAPES = [
    (16, 64, 1),
    (48, 128, 2),
    (33, 100, 1),
    (50, 70, 3),
    (1, 5, 1),
    (40, 40, 5),
    (17, 96, 1),
    (64, 768, 12),
]
TOKENS = (1, 2, 3, 5, 9, 16)

pytestmark = pytest.mark.skipif(not HERE, reason="installed without kernels, or none runs on this processor")


def drawn(
    rows: int, columns: int, groups: int, bits: int, dtype: torch.dtype = torch.float16
) -> LowBitWeight:
    random = torch.Generator().manual_seed(rows + columns + bits)
    codes = torch.randint(2**bits, (rows, columns), generator=random)
    scale = torch.rand(rows, groups, generator=random) + 0.1
    zero = torch.rand(rows, groups, generator=random) * 2**bits - 1  # some below 0, none of them whole
    return LowBitWeight.of(codes, scale.to(dtype), zero.to(dtype), bits)


def in_order(name: str, stored: LowBitWeight) -> KernelLayer:
    return KernelLayer(name, stored.planes, stored.scale, stored.zero, stored.columns)


def inputs(tokens: int, columns: int) -> Tensor:
    return torch.randn(tokens, columns, generator=torch.Generator().manual_seed(tokens))


def nmse(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).double().square().sum() / wanted.double().square().sum())


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}-{kind[2].name.lower()}")
def kind(request: pytest.FixtureRequest) -> tuple[str, int, Way]:
    """An instruction set that runs here, a number of bits, and a way that it has for them."""
    found: tuple[str, int, Way] = request.param
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_integer_parts_are_exact(kind: tuple[str, int, Way], shape: tuple[int, int, int]) -> None:
    check_integer_parts(*kind, shape, TOKENS)


def check_integer_parts(
    name: str, bits: int, way: Way, shape: tuple[int, int, int], counts: tuple[int, ...]
) -> None:
    _, columns, groups = shape
    stored = drawn(*shape, bits)
    layer = in_order(name, stored)
    codes = padded(stored.codes().numpy().astype(np.int64), layer, groups)  # (M, C, columns)
    for tokens in counts:
        values, sums = layer.integer_parts(inputs(tokens, columns), way)
        if way is Way.IN_BYTES:
            activations = values.view(torch.int8).numpy().astype(np.int64)
            wanted = np.einsum("cnk,mck->ncm", activations, codes)
        else:
            entries = values.numpy().astype(np.int64)
            entries = entries - 128 if name == "avx2" else entries - 256 * (entries > 127)
            tables = entries.reshape(*entries.shape[:2], -1, 16)
            wanted = sum(2**plane * looked_up(tables, (codes >> plane) & 1) for plane in range(bits))
        assert np.array_equal(sums.numpy(), wanted), f"{tokens} tokens"


@pytest.mark.slow
@pytest.mark.parametrize("rows", [16, 32, 48])
@pytest.mark.parametrize("columns", [64, 128, 768, 3072])
def test_integer_parts_are_exact_for_many_tokens(kind: tuple[str, int, Way], rows: int, columns: int) -> None:
    check_integer_parts(*kind, (rows, columns, columns // 64), (*TOKENS, 197))


def padded(codes: np.ndarray, layer: KernelLayer, groups: int) -> np.ndarray:
    """Return codes by chunk; those that are filled up do not matter, as their activations are 0."""
    rows, columns = codes.shape
    width, of_group = -(-columns // groups), layer.num_chunks // groups * layer.chunk
    codes = np.pad(codes, ((0, 0), (0, groups * width - columns))).reshape(rows, groups, width)
    codes = np.pad(codes, ((0, 0), (0, 0), (0, of_group - width)))
    return codes.reshape(rows, layer.num_chunks, layer.chunk)


def looked_up(tables: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Return the sums (N, C, M) of entries of tables (C, N, quads, 16) that bits (M, C, columns) pick."""
    rows, chunks, columns = bits.shape
    patterns = (bits.reshape(rows, chunks, columns // 4, 4) * [1, 2, 4, 8]).sum(axis=3)
    found = [
        [tables[chunk][:, np.arange(columns // 4), patterns[row, chunk]].sum(axis=1) for row in range(rows)]
        for chunk in range(chunks)
    ]
    return np.array(found).transpose(2, 0, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_results_are_those_of_the_definition(
    kind: tuple[str, int, Way], shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    name, bits, way = kind
    stored = drawn(*shape, bits, dtype)
    bias = torch.randn(shape[0])
    for tokens in TOKENS:
        x = inputs(tokens, shape[1])
        found = in_order(name, stored).product(x, bias, way)
        wanted = x.double() @ stored.expanded().double().T + bias
        if way is Way.LOOK_UP:  # rounded as the reference rounds, but for ties
            close = multiplied_by_lookup(x, stored) + bias
            assert nmse(found, close) < 1e-10  # 1e-5 of it
        assert nmse(found, wanted) < (
            2e-4 if x.numel() > 200 else 2e-3
        )  # few values have no mean to speak of


def test_the_worked_example() -> None:
    stored = LowBitWeight.of(torch.tensor([[0, 3, 1, 2]]), torch.ones(1, 1), torch.full((1, 1), 2.0), 2)
    x = torch.tensor([[1.0, 2.0, -3.0, 4.0]])
    assert patterns_of(stored).flatten().tolist() == [6, 10]
    for name in HERE:
        values, sums = in_order(name, stored).integer_parts(x, Way.LOOK_UP)
        entries = values.int() - 128 if name == "avx2" else values.view(torch.int8).int()
        assert entries[0, 0, [6, 10]].tolist() == [-76, 102]
        assert sums.item() == -76 + 2 * 102
        assert in_order(name, stored).product(x, None, Way.LOOK_UP).item() == pytest.approx(3.03937, abs=1e-5)


def test_instruction_sets_give_the_same() -> None:
    stored = drawn(50, 130, 2, 3)
    x = inputs(7, 130)
    parts = [in_order(name, stored).integer_parts(x, Way.LOOK_UP)[1] for name in HERE]
    results = [in_order(name, stored).product(x, None, Way.LOOK_UP) for name in HERE]
    for part, result in zip(parts[1:], results[1:], strict=True):
        assert torch.equal(part, parts[0])
        assert nmse(result, results[0]) < 1e-12  # 1e-6 of it


def test_any_number_of_threads_gives_the_same(kind: tuple[str, int, Way]) -> None:
    name, bits, way = kind
    layer, before = in_order(name, drawn(200, 128, 2, bits)), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append([layer.product(inputs(tokens, 128), None, way) for tokens in (1, 3, 100)])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_planes_and_values_come_back(kind: tuple[str, int, Way], shape: tuple[int, int, int]) -> None:
    stored = drawn(*shape, kind[1])
    layer = in_order(kind[0], stored)
    assert torch.equal(layer.planes(), stored.planes)
    assert torch.equal(layer.expanded(), stored.expanded())


def test_what_is_no_number_stays_none(kind: tuple[str, int, Way]) -> None:
    name, bits, way = kind
    layer = in_order(name, drawn(20, 128, 2, bits))
    for bad in (float("nan"), float("inf"), -float("inf")):
        x = inputs(3, 128)
        x[1, 70] = bad
        found = layer.product(x, None, way)
        assert not found[1].isfinite().any()
        assert found[[0, 2]].isfinite().all()


def test_zeros_and_the_largest_and_smallest_numbers(kind: tuple[str, int, Way]) -> None:
    name, bits, way = kind
    stored = drawn(20, 128, 2, bits)
    layer = in_order(name, stored)
    x = torch.zeros(4, 128)
    x[1, 3] = 1e30
    x[2] = 1e-44
    x[3, :64] = 3e38 / 1e6
    found = layer.product(x, None, way)
    wanted = x.double() @ stored.expanded().double().T
    assert torch.equal(found[0], torch.zeros(20))
    for row in (1, 3):
        assert nmse(found[row].double() / 1e30, wanted[row] / 1e30) < 1e-3
    assert found[2].abs().max() < 1e-30


def test_nothing_times_something_is_nothing(kind: tuple[str, int, Way]) -> None:
    layer = in_order(kind[0], drawn(20, 64, 1, kind[1]))
    assert layer.product(torch.empty(0, 64), None, kind[2]).shape == (0, 20)
    assert layer.product(torch.empty(2, 0, 64), None, kind[2]).shape == (2, 0, 20)


@pytest.mark.parametrize("name", HERE)
def test_a_way_that_is_not_there_is_refused(name: str) -> None:
    layer = in_order(name, drawn(20, 64, 1, 8))
    with pytest.raises(ValueError, match="has no way LOOK_UP for 8 bits"):
        layer.product(inputs(1, 64), None, Way.LOOK_UP)


@pytest.mark.parametrize("x", [torch.zeros(2, 63), torch.zeros(2, 128), torch.zeros(1, 64).double()])
@pytest.mark.parametrize("name", HERE)
def test_other_inputs_are_refused(name: str, x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"are to be \(\.\.\., 64\) in float32"):
        in_order(name, drawn(20, 64, 1, 2)).product(x, None, Way.LOOK_UP)
