"""Show that codes are chosen for what comes out of a layer, and by how much that is better."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clbench import quant
from clbench.backbones import BackboneOptions, create
from clbench.backbones.backbone import Backbone
from clbench.options import build
from clbench.quant.least_error import SHARES, LeastError, gram_of
from clbench.quant.parts.compensated import DAMPING, compensated_codes
from clbench.quant.parts.grids import codes_of, grid_of, in_groups
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.observed import matrix_of, rows_of
from clbench.quant.quantised import Quantised, restored
from clbench.quant.rtn import RoundToNearest

BITS = [1, 2, 3, 4, 8]


def correlated(num_rows: int, columns: int) -> Tensor:
    """Inputs as those of backbones: correlated, of unequal sizes, and not around 0."""
    random = torch.Generator().manual_seed(0)
    mixing = torch.randn(columns, columns, generator=random) * torch.logspace(0, -1.5, columns)[:, None]
    offset = torch.randn(columns, generator=random)
    return torch.randn(num_rows, columns, generator=random) @ mixing + offset


def output_error(stored: LowBitWeight, matrix: Tensor, inputs: Tensor) -> float:
    return float((inputs @ (stored.expanded() - matrix).T).norm() / (inputs @ matrix.T).norm())


def opened(name: str = "vit-micro") -> Backbone:
    return create(name, BackboneOptions(weights="none", image_size=32))


def images(num_images: int = 4) -> Tensor:
    return torch.randn(num_images, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def quantised(backbone: Backbone, name: str, **options: object) -> Quantised:
    made = build(quant.get(name), "quant", options)
    return made.quantise(backbone, images()[: made.num_images], torch.Generator())


def test_a_column_makes_up_for_the_error_of_the_one_before() -> None:
    weight = torch.tensor([[[0.4, 0.4]]])
    grid = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    same = torch.ones(1, 2, 2)  # both inputs are always equal
    # the second becomes 0.4 + 0.4 / 1.01 = 0.796, which is nearer to 1
    assert compensated_codes(weight, grid, 2, same, 2)[0].tolist() == [[[0, 1]]]
    assert compensated_codes(weight, grid, 2, torch.eye(2)[None], 2)[0].tolist() == [[[0, 0]]]


def test_columns_go_from_the_strongest_input_to_the_weakest() -> None:
    weight = torch.tensor([[[0.4, 0.4]]])
    grid = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    gram = torch.tensor([[[1.0, 1.5], [1.5, 4.0]]])
    # 0.4 + 0.4 * 1.5 / 1.025 = 0.985 for the first, after the second
    assert compensated_codes(weight, grid, 2, gram, 2)[0].tolist() == [[[1, 0]]]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", [0, 48])
def test_codes_are_those_of_eliminating_one_column_after_another(bits: int, group: int) -> None:
    columns = 150  # more than two blocks
    inputs, matrix = correlated(400, columns), torch.randn(7, columns)
    groups = in_groups(matrix, group)
    scale, zero = grid_of(groups, bits, "asymmetric", 32)
    width = groups.values.shape[2]
    gram = inputs.T @ inputs / len(inputs)
    found, squared = compensated_codes(matrix[None], (scale[None], zero[None]), width, gram[None], bits)

    hessian = gram.double()
    order = hessian.diagonal().argsort(descending=True).tolist()
    damped = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(columns)
    inverse = damped.inverse()
    left, wanted = matrix.double(), torch.empty(7, columns)
    for column in order:
        own_scale, own_zero = scale[:, column // width].double(), zero[:, column // width].double()
        code = (left[:, column] / own_scale + own_zero).round().clamp(0, 2**bits - 1)
        error = (left[:, column] - own_scale * (code - own_zero)) / inverse[column, column]
        left = left - error[:, None] * inverse[column]
        inverse = inverse - inverse[:, column, None] * inverse[column] / inverse[column, column]
        wanted[:, column] = code
    # single precision may round what is nearly a tie otherwise, and what follows then differs
    assert (found[0] == wanted).float().mean() > (0.9 if bits == 8 else 0.97)
    error = (LowBitWeight.of(found[0], scale, zero, bits).expanded() - matrix).double()
    torch.testing.assert_close(squared[0].double(), ((error @ damped) * error).sum(dim=1), rtol=1e-3, atol=0)


def test_inputs_that_have_nothing_to_do_with_each_other_leave_plain_rounding() -> None:
    matrix = torch.randn(6, 32)
    stored = LeastError(bits=3, scale_bits=32).stored(matrix, torch.eye(32)[None])
    groups = in_groups(matrix, 0)
    grids = [grid_of(groups, 3, "asymmetric", 32, share) for share in SHARES]
    plain = [LowBitWeight.of(groups.joined(codes_of(groups, grid, 3)), *grid, 3).expanded() for grid in grids]
    errors = torch.stack([(values - matrix).square().sum(dim=1) for values in plain])
    best = torch.stack(plain)[errors.argmin(dim=0), torch.arange(6)]
    torch.testing.assert_close(stored.expanded(), best)


@pytest.mark.parametrize(("bits", "ratio"), [(1, 0.6), (2, 0.5), (3, 0.5), (4, 0.6), (8, 0.9)])
@pytest.mark.parametrize("group", [0, 32])
def test_the_output_error_on_other_inputs_is_well_below_that_of_rounding(
    bits: int, ratio: float, group: int
) -> None:
    inputs, matrix = correlated(1200, 96), torch.randn(40, 96)
    seen, held_out = inputs[:600], inputs[600:]
    gram = (seen.T @ seen / len(seen))[None]
    plain = RoundToNearest(bits=bits, group=group).stored(matrix)
    chosen = LeastError(bits=bits, group=group).stored(matrix, gram)
    assert chosen.num_bytes == plain.num_bytes
    assert output_error(chosen, matrix, held_out) < ratio * output_error(plain, matrix, held_out)


@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_fewer_inputs_than_columns_are_enough(num_rows: int) -> None:
    matrix, inputs = torch.randn(8, 64), correlated(5, 64)[:num_rows]
    stored = LeastError(bits=4).stored(matrix, (inputs.T @ inputs)[None])
    assert float((stored.expanded() - matrix).norm() / matrix.norm()) < 0.3
    if num_rows:
        assert output_error(stored, matrix, inputs) < 0.05


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e15])
def test_odd_weights_are_no_trouble(bits: int, size: float) -> None:
    matrix = size * torch.randn(4, 16)
    matrix[0] = 0
    inputs = correlated(50, 16)
    values = LeastError(bits=bits).stored(matrix, (inputs.T @ inputs)[None]).expanded()
    assert values.isfinite().all()
    assert values[0].count_nonzero() == 0


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_convolution_is_chosen_for_by_its_groups(groups: int) -> None:
    layer = nn.Conv2d(8, 16, 3, padding=1, stride=2, groups=groups)
    inputs = torch.randn(20, 8, 9, 9).cumsum(dim=3)
    gram = gram_of(layer, inputs)
    rows = rows_of(layer, inputs)
    assert gram.shape == (groups, 8 // groups * 9, 8 // groups * 9)
    torch.testing.assert_close(gram, rows.mT @ rows / rows.shape[1], rtol=1e-4, atol=1e-4)
    matrix = matrix_of(layer)
    errors = []
    for stored in (RoundToNearest(bits=2).stored(matrix), LeastError(bits=2).stored(matrix, gram)):
        off = (stored.expanded() - matrix).view_as(layer.weight)
        errors.append(float(nn.functional.conv2d(inputs, off, None, 2, 1, 1, groups).norm()))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("bits", [2, 3])
def test_features_of_a_backbone_are_nearer_to_their_own(bits: int) -> None:
    backbone, shown = opened(), images(20)
    errors = {}
    with torch.no_grad():
        plain = backbone(shown)
        for name in ("rtn", "least-error"):
            low = quantised(backbone, name, bits=bits)
            errors[name] = float((backbone(shown) - plain).norm() / plain.norm())
            low.detach()
    assert errors["least-error"] < 0.7 * errors["rtn"]


@pytest.mark.parametrize(
    "model",
    ["vit-micro", *(pytest.param(name, marks=pytest.mark.slow) for name in ("convnext_atto", "resnet18"))],
)
def test_the_same_images_give_the_same_form_and_it_can_be_restored(model: str) -> None:
    first, second, third = opened(model), opened(model), opened(model)
    low, again = (quantised(each, "least-error", group=64, bits=2) for each in (first, second))
    assert low.state_key() == again.state_key()
    assert restored(third, low.quantiser, low.described(), low.state()).state_key() == low.state_key()
    with torch.no_grad():
        assert torch.equal(third(images()), first(images()))
        assert first(images()).isfinite().all()


def test_it_asks_for_as_many_images_as_it_is_told_to() -> None:
    assert LeastError().num_images == 32
    assert LeastError(images=5).num_images == 5
