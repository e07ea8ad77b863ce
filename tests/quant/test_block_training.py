"""Show that rounding is learnt as AdaRound and BRECQ do, and brings a block nearer to the float one."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import timm
import torch
from torch import Tensor

from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.quant.adalog import AdaLog
from clbench.quant.block_training import BlockTraining
from clbench.quant.low_bit_layers import LowBitLayer, LowBitLinear
from clbench.quant.parts.adaptive_log import AdaptiveLog
from clbench.quant.parts.learnt_rounding import LearntScale, LearntWeight, relaxed
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.rounding import Rounding
from clbench.quant.parts.uniform import Uniform
from clbench.quant.quantised import Quantised

OPTIONS = AdaLog(bits=3, images=4, candidates=32, rounds=1, search="plain")


def stored(scale: float, zero: float, bits: int = 3) -> LowBitWeight:
    one = torch.ones(1, 1)
    return LowBitWeight.of(torch.zeros(1, 4), scale * one, zero * one, bits)


def test_weight_starts_as_it_is_in_float_but_for_what_the_grid_cuts_off() -> None:
    weight = torch.tensor([[-0.7, 0.2, 1.9, 9.0]])
    learnt = LearntWeight(weight, stored(0.5, 3.0))
    assert learnt.up()[0, :3].tolist() == pytest.approx([0.6, 0.4, 0.8], abs=1e-4)
    assert learnt()[0].tolist() == pytest.approx([-0.7, 0.2, 1.9, 2.0], abs=1e-4)


def test_learnt_weight_is_stored_up_where_alpha_is_not_negative() -> None:
    learnt = LearntWeight(torch.tensor([[-0.7, 0.2, 1.1, 9.0]]), stored(0.5, 3.0))
    with torch.no_grad():
        learnt.alpha.copy_(torch.tensor([[-1.0, 0.0, 3.0, -1.0]]))
    assert learnt.stored().codes().tolist() == [[1, 4, 6, 7]]
    assert learnt.stored().expanded().tolist() == [[-1, 0.5, 1.5, 2.0]]


def test_indecision_is_least_where_each_weight_is_up_or_down() -> None:
    learnt = LearntWeight(torch.tensor([[0.25, 0.25, 0.25, 0.25]]), stored(0.5, 3.0))
    assert learnt.indecision(20.0).item() == pytest.approx(4, abs=1e-3)
    with torch.no_grad():
        learnt.alpha.copy_(torch.tensor([[-9.0, 9.0, 9.0, -9.0]]))
    assert learnt.indecision(2.0).item() == 0


@pytest.mark.parametrize(
    "rounding",
    [
        Uniform(4, scale=torch.tensor(0.11), zero=torch.tensor(2.0)),
        AdaptiveLog(4, scale=torch.tensor(0.9), q=torch.tensor(37.0)),
    ],
)
def test_relaxed_rounding_is_the_rounding_where_no_table_is_needed(rounding: Rounding) -> None:
    values = torch.rand(500, generator=torch.Generator().manual_seed(0)) ** 3
    found = relaxed(rounding, values, rounding.get_buffer("scale"))
    torch.testing.assert_close(found, rounding(values), atol=1e-6, rtol=1e-5)


def test_logarithms_skip_the_table_while_they_are_trained() -> None:
    rounding = AdaptiveLog(3, scale=torch.tensor(1.0), q=torch.tensor(23.0))
    value = torch.tensor([0.6, 0.03])
    assert relaxed(rounding, value, rounding.scale).tolist() == pytest.approx([2 ** (-23 / 37), 0])
    assert rounding(value).tolist() == pytest.approx([0.642857, 0], abs=1e-6)


def test_gradient_reaches_scales_through_round_only_where_they_are_learnt() -> None:
    values = torch.tensor([0.26, 0.9])
    uniform = Uniform(3, scale=torch.tensor(0.1), zero=torch.tensor(0.0))
    learnt = LearntScale(uniform)
    learnt(values).sum().backward()
    # d x^ / d s = c - x / s inside the grid, and c at its end.
    assert learnt.scale.grad is not None
    assert learnt.scale.grad.item() == pytest.approx((3 - 2.6) + 7, abs=1e-4)
    values.requires_grad_()
    assert not uniform.scale.requires_grad
    uniform(values).sum().backward()
    assert uniform.scale.grad is None
    log = AdaptiveLog(3, scale=torch.tensor(1.0), q=torch.tensor(23.0))
    assert LearntScale(log)(values).requires_grad
    assert not LearntScale(log, is_fixed=True).scale.requires_grad


def backbone() -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.models.VisionTransformer(
            32, 8, embed_dim=32, depth=2, num_heads=2, num_classes=0, init_values=0.5
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    images = Preprocessing(32, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")
    return open_model("vit", model, images, source="", digest="")


def pictures(num: int, seed: int) -> Tensor:
    return torch.randn(num, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


class Trained(AdaLog):
    """AdaLog with few, large steps."""

    def refine(self, *stage: object, **others: object) -> None:
        """Train for a moment."""
        BlockTraining(150, batch=16, rate=0.02, scale_rate=1e-3).train(*stage, **others)  # type: ignore[arg-type]  # as they come


@torch.no_grad()
def block_errors(made: Quantised, on: Backbone, images: Tensor) -> list[float]:
    """Errors of each block's output, with inputs in float."""
    errors = []
    for block in on.blocks:
        passed: list[tuple[Tensor, Tensor]] = []
        made.enabled = False
        handle = block[""].register_forward_hook(
            lambda _, got, gave, kept=passed: kept.append((got[0], gave))
        )
        on(images)
        handle.remove()
        made.enabled = True
        errors.append(float((block[""](passed[0][0]) - passed[0][1]).square().mean()))
    return errors


@pytest.mark.slow
def test_trained_blocks_are_nearer_to_the_float_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    images, others = pictures(48, seed=0), pictures(32, seed=1)
    plain_on, trained_on = backbone(), backbone()
    plain = OPTIONS.quantise(plain_on, images, generator)
    trained = Trained(**asdict(OPTIONS)).quantise(trained_on, images, generator)
    before, after = block_errors(plain, plain_on, others), block_errors(trained, trained_on, others)
    assert all(later < 0.9 * earlier for earlier, later in zip(before, after, strict=True))
    for path, layer in trained.layers.items():
        assert layer.stored.scale.equal(plain.layers[path].stored.scale)
        assert (layer.stored.codes().int() - plain.layers[path].stored.codes().int()).abs().max() <= 1


def test_training_leaves_the_backbone_as_it_was() -> None:
    on, images = backbone(), pictures(8, seed=0)
    modules = dict(on.named_modules())
    with torch.no_grad():
        before = on(images)
        options = replace(OPTIONS, retrain=2, retrain_images=8)
        made = options.quantise(on, images, torch.Generator().manual_seed(0))
        assert not torch.equal(on(images), before)
        made.enabled = False
        assert torch.equal(on(images), before)
    assert all(module is modules[name] for name, module in on.named_modules())
    assert all(parameter.grad is None for parameter in on.parameters())


@pytest.mark.slow
def test_blocks_in_half_precision_are_trained_too() -> None:
    on = backbone().to(torch.bfloat16)
    made = Trained(**asdict(OPTIONS)).quantise(on, pictures(4, seed=0), torch.Generator().manual_seed(0))
    assert all(layer.stored.scale.dtype == torch.float32 for layer in made.layers.values())
    with torch.no_grad():
        assert on(pictures(2, seed=1)).isfinite().all()


@pytest.mark.slow
def test_bias_follows_the_weight_where_a_shift_is_taken_off() -> None:
    on, images = backbone(), pictures(8, seed=0)
    made = Trained(**asdict(OPTIONS)).quantise(on, images, torch.Generator().manual_seed(0))
    shifted: list[LowBitLayer] = [
        layer for layer in made.layers.values() if isinstance(layer.rounding, AdaptiveLog)
    ]
    assert shifted
    for layer in shifted:
        assert isinstance(layer, LowBitLinear)
        assert layer.offset is not None
        expected = layer.offset * layer.stored.expanded().sum(dim=1)
        torch.testing.assert_close(layer.correction, expected)


def test_images_asked_for_are_those_of_the_training_if_there_is_one() -> None:
    assert AdaLog(images=32).num_images == 32
    assert AdaLog(images=32, retrain=10).num_images == 1024
    assert AdaLog(images=32, retrain=10, retrain_images=8).num_images == 32


def test_rounding_without_a_scale_does_not_learn() -> None:
    class Fixed(Rounding):
        def codes(self, values: Tensor) -> Tensor:
            return values

        def decoded(self, codes: Tensor) -> Tensor:
            return codes

    with pytest.raises(TypeError, match="Fixed has no scale"):
        relaxed(Fixed(3, least=torch.ones(())), torch.ones(1), torch.ones(()))
