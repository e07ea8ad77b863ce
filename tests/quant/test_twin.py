"""Show that a value uses exactly one of its two grids, and what the errors are weighted by."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.quant.parts.deviations import WeightedSquares
from clbench.quant.parts.places import Stage, stages
from clbench.quant.parts.rounding import Rounding
from clbench.quant.parts.sensitivity import LOGITS, MIXED, sensitivity
from clbench.quant.parts.twin_uniform import LEAST_OF_GELU, TwinGelu, TwinSoftmax

BITS = [2, 3, 4, 8]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_vit() -> Backbone:
    unit = (1.0, 1.0, 1.0)
    model = timm.models.VisionTransformer(16, 8, embed_dim=8, depth=2, num_heads=2, num_classes=0)
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)
    return open_model("vit", model, Preprocessing(16, unit, unit, 1.0, "bilinear"), source="", digest="")


def block_of(backbone: Backbone, index: int) -> Stage:
    return next(stage for stage in stages(backbone) if stage.name == f"block[{index}]")


def nearest(values: Tensor, levels: Tensor) -> Tensor:
    return levels[(values[:, None] - levels).abs().argmin(dim=1)]


def test_the_worked_example_after_a_gelu() -> None:
    rounding = TwinGelu(3, scale=torch.tensor(0.5))
    values = torch.tensor([-0.17, -0.05, -0.01, 0.0, 0.3, 0.9, 9.0])  # negative steps of 0.0425
    assert rounding.codes(values).tolist() == [0, 3, 4, 4, 5, 6, 7]
    assert rounding(values).tolist() == pytest.approx([-0.16997, -0.0424925, 0, 0, 0.5, 1.0, 1.5])


def test_the_worked_example_after_a_softmax() -> None:
    rounding = TwinSoftmax(3, split=torch.tensor(0.25))
    values = torch.tensor([0.0, 0.03, 0.2, 0.25, 0.26, 0.6, 1.0])  # steps of 1 / 12, then of 1 / 3
    assert rounding.codes(values).tolist() == [0, 0, 2, 3, 5, 6, 7]
    assert rounding(values).tolist() == pytest.approx([0, 0, 2 / 12, 3 / 12, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("bits", BITS)
def test_after_a_gelu_a_value_goes_to_the_nearest_level_of_its_sign(bits: int) -> None:
    half, scale = 2 ** (bits - 1), 0.07
    values = torch.nn.functional.gelu(normal(2000))
    below = nearest(values, -torch.arange(half + 1) * LEAST_OF_GELU / half)
    above = nearest(values, torch.arange(half) * scale)
    rounded = TwinGelu(bits, scale=torch.tensor(scale))(values)
    torch.testing.assert_close(rounded, torch.where(values < 0, below, above))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("power", [0, 1, 3, 7])
def test_after_a_softmax_a_value_goes_to_the_nearest_level_of_its_range(bits: int, power: int) -> None:
    half, split = 2 ** (bits - 1), 2.0**-power
    values = (2 * normal(20, 197)).softmax(dim=-1).flatten()
    below = nearest(values, torch.arange(half) * split / (half - 1))
    above = nearest(values, torch.arange(half) / (half - 1))
    rounded = TwinSoftmax(bits, split=torch.tensor(split))(values)
    torch.testing.assert_close(rounded, torch.where(values <= split, below, above))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    "rounding",
    [
        lambda bits: TwinGelu(bits, scale=torch.tensor(0.07)),
        *(lambda bits, p=p: TwinSoftmax(bits, split=torch.tensor(2.0**-p)) for p in (0, 1, 3, 7)),
    ],
)
def test_what_was_rounded_stays_what_it_is_and_is_what_its_code_says(bits: int, rounding: object) -> None:
    assert callable(rounding)
    made: Rounding = rounding(bits)
    values = (
        normal(5000).abs() / 5 if isinstance(made, TwinSoftmax) else torch.nn.functional.gelu(normal(5000))
    )
    codes = made.codes(values)
    assert codes.min() >= 0
    assert codes.max() < 2**bits
    once = made(values)
    torch.testing.assert_close(made.decoded(codes), once, rtol=0, atol=0)
    assert torch.equal(made(once), once)


def test_the_gradient_ends_where_a_grid_does() -> None:
    values = torch.tensor([-0.3, -0.1, 0.4, 3.0], requires_grad=True)
    TwinGelu(3, scale=torch.tensor(0.5))(values).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_squares_are_weighted() -> None:
    error = WeightedSquares(torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    output = torch.tensor([[1.0, 1.0], [2.0, 9.0]])
    assert error.whole(output) == 15
    assert error.along(output, 1).tolist() == [[13.0, 2.0]]
    assert error.along(output, 0).tolist() == [[3.0], [12.0]]


def test_the_sensitivity_is_on_the_average_how_far_the_features_move() -> None:
    backbone = small_vit()
    image = normal(1, 3, 16, 16)
    stage = block_of(backbone, 0)
    place = next(place for place in stage.places if place.site.endswith("mlp.fc1"))
    site = backbone.site(place.site)

    def features(shift: Tensor) -> Tensor:
        handle = site.register_forward_hook(lambda _, __, output: output + shift)
        try:
            return backbone(image)[0]
        finally:
            handle.remove()

    jacobian = torch.autograd.functional.jacobian(features, torch.zeros(1, 5, 32))
    exact = jacobian.square().sum(dim=0)[0]
    found = sensitivity(backbone, stage, image.repeat(512, 1, 1, 1), torch.Generator().manual_seed(0))
    average = found.outputs[place.path].mean(dim=0)
    assert average.sum() == pytest.approx(float(exact.sum()), rel=0.05)  # of 512 draws
    assert torch.corrcoef(torch.stack((average.flatten(), exact.flatten())))[0, 1] > 0.97


def test_where_features_are_the_class_token_only_its_row_matters_in_the_end() -> None:
    backbone = small_vit()
    found = sensitivity(backbone, block_of(backbone, 1), normal(3, 3, 16, 16), torch.Generator())
    path = next(path for path in found.outputs if "fc2" in path)
    assert found.outputs[path].shape == (3, 5, 8)
    assert (found.outputs[path][:, 0] > 0).all()
    assert not found.outputs[path][:, 1:].any()
    assert found.products[LOGITS].shape == (3, 2, 5, 5)
    assert found.products[MIXED].shape == (3, 5, 8)
    assert not found.products[MIXED][:, 1:].any()


def test_looking_at_the_sensitivity_leaves_no_trace() -> None:
    backbone = small_vit()
    images = normal(2, 3, 16, 16)
    before = backbone(images)
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in backbone.modules()]
    sensitivity(backbone, block_of(backbone, 0), images, torch.Generator())
    after = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in backbone.modules()]
    assert after == hooks
    assert torch.equal(backbone(images), before)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
