"""Show that weights are quantised, packed and restored as published, number for number."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.quant.bits import pack, unpack
from clbench.quant.learnt_low_bit import LearntLowBitLinear, bias_free
from clbench.quant.packed import packed_bytes, packed_state
from clbench.quant.packed import unpack as unpack_state
from clbench.quant.parts.gauss_codebook import borders, codebook, decode, encode, quantise
from clbench.quant.published import from_bytes, to_bytes

WEIGHT = torch.arange(1.0, 9.0).view(2, 4)  # the worked example: mean 4.5, deviation sqrt(6)
BITS = [1, 2, 4, 8]


def codes(bits: int) -> Tensor:
    return torch.tensor(codebook(bits))


def cells(bits: int) -> Tensor:
    return torch.tensor(borders(bits))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(bits: int, in_features: int = 8, out_features: int = 5, seed: int = 0) -> LearntLowBitLinear:
    made = LearntLowBitLinear(in_features, out_features, bits)
    with torch.no_grad():
        made.weight.copy_(normal(out_features, in_features, seed=seed))
    return made


@pytest.mark.parametrize(
    ("bits", "upper_half"),
    [
        (1, [0.67449]),
        (2, [0.377754, 1.265720]),
        (4, [0.10555, 0.319036, 0.540072, 0.775192, 1.034006, 1.333107, 1.707738, 2.265491]),
    ],
)
def test_codes_are_the_published_ones(bits: int, upper_half: list[float]) -> None:
    expected = [*(-code for code in reversed(upper_half)), *upper_half]
    assert codebook(bits) == pytest.approx(expected, abs=1e-6)


def test_the_outermost_of_256_codes_is_where_500_iterations_leave_it() -> None:
    assert len(codebook(8)) == 256
    assert codebook(8)[-1] == pytest.approx(2.809515, abs=1e-6)
    assert codebook(8)[0] == pytest.approx(-2.809515, abs=1e-6)


@pytest.mark.parametrize(
    ("bits", "values", "content"),
    [
        (1, [2.847844] * 4 + [6.152156] * 4, [240]),
        (2, [1.3996, 1.3996, 3.5747, 3.5747, 5.4253, 5.4253, 7.6004, 7.6004], [80, 250]),
        (4, [1.2346, 1.9672, 3.1771, 4.2415, 4.7585, 5.8229, 7.0328, 7.7654], [50, 117, 168, 220]),
    ],
)
def test_worked_example(bits: int, values: list[float], content: list[int]) -> None:
    assert quantise(WEIGHT, codes(bits), cells(bits)).flatten().tolist() == pytest.approx(values, abs=6e-5)
    indices, statistics = encode(WEIGHT, cells(bits))
    assert pack(indices, bits).tolist() == content
    assert statistics.tolist() == pytest.approx([4.5, 6**0.5])


def test_gradient_of_the_worked_example_keeps_what_mean_and_deviation_contribute() -> None:
    weight = WEIGHT.clone().requires_grad_()
    factors = torch.arange(8.0).view(2, 4)
    (gradient,) = torch.autograd.grad((factors * quantise(weight, codes(1), cells(1))).sum(), weight)
    expected = [[1.29711, 1.92651, 2.55590, 3.18530], [3.81470, 4.44409, 5.07349, 5.70289]]
    torch.testing.assert_close(gradient, torch.tensor(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("bits", BITS)
def test_gradient_is_the_closed_form(bits: int) -> None:
    weight, upstream = normal(6, 7).double(), normal(6, 7, seed=1).double()
    book, weight = codes(bits).double(), weight.requires_grad_()
    (gradient,) = torch.autograd.grad((upstream * quantise(weight, book, cells(bits))).sum(), weight)
    mu, sigma = weight.mean(), weight.std()
    share = sigma / (sigma + 1e-5)
    z = (weight - mu) / (sigma + 1e-5)
    quantised = (quantise(weight, book, cells(bits)) - mu) / sigma
    through_sigma = ((upstream * quantised).sum() - share * (upstream * z).sum()) * (weight - mu)
    expected = share * upstream + (1 - share) * upstream.mean() + through_sigma / (41 * sigma)
    torch.testing.assert_close(gradient, expected.detach(), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("bits", BITS)
def test_decoded_values_are_those_of_training_bit_for_bit(bits: int) -> None:
    weight = normal(30, 11)
    quantised = quantise(weight, codes(bits), cells(bits))
    assert len(quantised.unique()) <= 2**bits
    assert torch.equal(decode(*encode(weight, cells(bits)), codes(bits)).view(30, 11), quantised)


@pytest.mark.parametrize("bits", BITS)
def test_quantising_follows_a_scale_and_a_shift(bits: int) -> None:
    weight = normal(20, 10)
    moved = quantise(3 * weight + 2, codes(bits), cells(bits))
    torch.testing.assert_close(moved, 3 * quantise(weight, codes(bits), cells(bits)) + 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize("bits", BITS)
def test_cells_are_those_that_the_published_sum_of_signs_tells_apart(bits: int) -> None:
    code = torch.zeros(2**bits, dtype=torch.float64)
    for _ in range(500):
        border = (code[1:] + code[:-1]) / 2
        share = F.pad(F.pad(torch.special.ndtr(border), (0, 1), value=1.0), (1, 0))
        code = torch.special.ndtri((share[1:] + share[:-1]) / 2)
    weight = normal(400, 500)
    z = (weight - weight.mean()) / (weight.std() + 1e-5)
    steps = (code[1:] - code[:-1]).float() / 2
    summed = torch.zeros_like(z)
    for at, step in zip(border.float(), steps, strict=True):
        summed += (z - at).sign() * step
    published = weight.std() * summed + weight.mean()
    # 255 summands of float32 add rounding; a border half-way between the last codes is 1e-3 off
    torch.testing.assert_close(quantise(weight, codes(bits), cells(bits)), published, atol=5e-6, rtol=0)


def test_borders_of_256_codes_are_those_before_the_last_update() -> None:
    book = torch.tensor(codebook(8), dtype=torch.float64)
    gap = (torch.tensor(borders(8), dtype=torch.float64) - (book[1:] + book[:-1]) / 2).abs().max()
    assert float(gap) == pytest.approx(9.6e-4, abs=2e-5)


def test_the_error_on_normal_values_falls_with_every_bit() -> None:
    values = normal(20_000)
    errors = [float((quantise(values, codes(bits), cells(bits)) - values).abs().mean()) for bits in BITS]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(0.4733, abs=0.01)  # E|Z - sign(Z) 0.6745| = 2 (2 phi(0.6745) - phi(0))


def test_a_value_between_two_codes_belongs_to_the_upper_one() -> None:
    indices, _ = encode(torch.tensor([-1.0, 0.0, 1.0]), cells(1))
    assert indices.tolist() == [0, 1, 1]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("num_indices", [1, 7, 8, 9])
def test_packing_fills_the_last_byte_and_unpacking_drops_the_filling(bits: int, num_indices: int) -> None:
    random = torch.Generator().manual_seed(num_indices)
    indices = torch.randint(2**bits, (num_indices,), generator=random, dtype=torch.uint8)
    packed = pack(indices, bits)
    assert packed.numel() == -(-num_indices * bits // 8)
    assert torch.equal(unpack(packed, bits, num_indices), indices)


def test_the_first_index_is_in_the_least_significant_bits() -> None:
    assert pack(torch.tensor([1, 2, 3, 0, 3], dtype=torch.uint8), 2).tolist() == [1 + 4 * 2 + 16 * 3, 3]


def test_bytes_of_another_layer_are_refused() -> None:
    with pytest.raises(ValueError, match="40 indices of 2 bits are 10 bytes, not 9"):
        layer(2).unpack({"codes": torch.zeros(9, dtype=torch.uint8), "statistics": torch.ones(2)})


@pytest.mark.parametrize("bits", BITS)
def test_an_unpacked_layer_computes_the_same_and_is_never_quantised_again(bits: int) -> None:
    first, second = layer(bits), layer(bits, seed=1)
    inputs = normal(3, 8)
    before = first(inputs).detach()
    assert packed_bytes(first) == 40 * bits // 8 + 8
    unpack_state(second, packed_state(first))
    assert torch.equal(second(inputs), before)
    assert not second.weight.requires_grad
    third = copy.deepcopy(second)
    unpack_state(third, packed_state(second))
    assert torch.equal(third(inputs), before)
    assert all(torch.equal(third.packed()[key], value) for key, value in first.packed().items())


def test_32_bits_are_an_ordinary_layer() -> None:
    plain = bias_free(4, 3, 32)
    assert type(plain) is nn.Linear
    assert plain.bias is None
    assert packed_bytes(plain) == 4 * 12


def test_published_bytes_are_indices_statistics_weight_bias() -> None:
    low = LearntLowBitLinear(4, 2, 1)
    head = nn.Linear(2, 1)
    with torch.no_grad():
        low.weight.copy_(WEIGHT)
        head.weight.copy_(torch.tensor([[1.0, -2.0]]))
        head.bias.fill_(0.5)
    content = to_bytes(low, head)
    assert content[0] == 240
    assert content[1:5].hex() == "00009040"  # 4.5, the least significant byte first
    assert content[9:].hex() == "0000803f" + "000000c0" + "0000003f"
    other_low, other_head = layer(1, in_features=4, out_features=2), nn.Linear(2, 1)
    from_bytes(content, other_low, other_head)
    assert to_bytes(other_low, other_head) == content
    assert torch.equal(other_head.weight, head.weight)
    with pytest.raises(ValueError, match="these modules take 21 bytes, not 20"):
        from_bytes(content[:-1], low, head)
