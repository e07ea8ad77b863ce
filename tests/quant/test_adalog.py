"""Show what AdaLog puts where, that more bits and more search help, and that it fits every family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import quant
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.quant.adalog import SHIFT, AdaLog
from clbench.quant.low_bit_layers import LowBitLinear
from clbench.quant.parts.adaptive_log import AdaptiveLog
from clbench.quant.parts.places import stages
from clbench.quant.parts.uniform import Uniform
from clbench.quant.quantised import Quantised, low_bit, restored

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "vit": partial(timm.models.VisionTransformer, 32, 8, embed_dim=32, depth=2, num_heads=2, num_classes=0),
    "swin": partial(
        timm.models.SwinTransformer,
        *(32, 4),
        window_size=4,
        embed_dim=16,
        depths=(2, 1),
        num_heads=(2, 4),
        num_classes=0,
    ),
    "convnext": partial(timm.models.ConvNeXt, depths=(1, 1, 1, 1), dims=(16, 16, 16, 16), num_classes=0),
    "resnet": partial(timm.models.ResNet, BasicBlock, (1, 1, 1, 1), channels=(16, 16, 16, 16), num_classes=0),
}
QUICK = AdaLog(images=6, candidates=32, rounds=1)


def small(family: str) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FAMILIES[family]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    images = Preprocessing(32, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")
    return open_model(family, model, images, source="", digest="")


def pictures(num: int, seed: int = 0) -> Tensor:
    return torch.randn(num, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def quantised(backbone: Backbone, options: AdaLog) -> Quantised:
    return options.quantise(backbone, pictures(options.num_images), torch.Generator().manual_seed(0))


@torch.no_grad()
def change(options: AdaLog, family: str = "vit") -> float:
    """How much of the features' spread is gone on other images."""
    backbone, images = small(family), pictures(20, seed=1)
    before = backbone(images)
    quantised(backbone, options)
    return float((backbone(images) - before).square().sum() / (before - before.mean(dim=0)).square().sum())


def test_it_is_registered() -> None:
    assert quant.get("adalog") is AdaLog


def test_each_tensor_is_rounded_as_the_paper_says() -> None:
    backbone = small("vit")
    sources = {place.path: place.source for stage in stages(backbone) for place in stage.places}
    made = quantised(backbone, QUICK)
    kinds = {"pixels": type(None), "norm": Uniform, "gelu": AdaptiveLog, "other": Uniform}
    assert set(made.layers) == set(sources)
    assert sorted(sources.values()) == ["gelu"] * 2 + ["norm"] * 4 + ["other"] * 2 + ["pixels"]
    for path, layer in made.layers.items():
        assert type(layer.rounding) is kinds[sources[path]]
        assert layer.stored.bits == 4
        assert layer.stored.scale.shape == (layer.weight.shape[0], 1)
    for name, rounding in made.roundings.items():
        assert type(rounding) is (AdaptiveLog if name.endswith("probs") else Uniform)
        shape = () if name.endswith("probs") else (1, 2, 1, 1)  # a grid for each head
        assert rounding.get_buffer("scale").shape == shape
    assert len(made.roundings) == 8
    assert all(
        rounding.get_buffer("scale") == 1 for name, rounding in made.roundings.items() if "probs" in name
    )


@pytest.mark.parametrize(
    "family", ["vit", *(pytest.param(each, marks=[pytest.mark.slow]) for each in FAMILIES if each != "vit")]
)
def test_eight_bits_change_little_and_four_more(family: str) -> None:
    eight, four = (
        change(AdaLog(bits=bits, images=6, candidates=32, rounds=1, tokens=40), family) for bits in (8, 4)
    )
    assert eight < 0.05
    assert eight < four < 1.5


def test_bits_of_weights_and_activations_are_told_apart() -> None:
    made = quantised(
        small("vit"), AdaLog(weight_bits=3, activation_bits=5, images=2, candidates=32, rounds=1)
    )
    assert {layer.stored.bits for layer in made.layers.values()} == {3}
    roundings = [layer.rounding for layer in made.layers.values()]
    assert {rounding.bits for rounding in (*roundings, *made.roundings.values()) if rounding} == {5}


def test_shift_of_a_gelu_and_what_it_adds_leave_a_layer_as_it_was() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(16, 8)
    inputs = F.gelu(torch.randn(50, 16, generator=generator))
    weight = layer.weight.detach()[None]
    fitted = QUICK._after_gelu(weight, inputs[None], torch.arange(50))
    made = low_bit(layer, fitted.weight, fitted.rounding, **fitted.around)
    assert isinstance(made, LowBitLinear)
    assert fitted.rounding is not None
    with torch.no_grad():
        rounded = fitted.rounding(inputs + SHIFT) - SHIFT
        expected = F.linear(rounded, fitted.weight.expanded(), layer.bias)
        torch.testing.assert_close(made(inputs), expected, atol=1e-5, rtol=1e-5)


def test_bias_gains_minus_the_shift_times_the_sums_of_the_rounded_weight() -> None:
    weight = torch.tensor([[1.0, -2.0], [3.0, 1.0]])
    inputs = F.gelu(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))
    options = AdaLog(bits=8, candidates=32, rounds=1)
    fitted = options._after_gelu(weight[None], inputs[None], torch.arange(50))
    sums = fitted.weight.expanded().sum(dim=1)
    torch.testing.assert_close(fitted.around["correction"], -SHIFT * sums)
    assert sums.tolist() == pytest.approx([-1, 4], abs=0.1)


def test_channels_brought_to_one_scale_leave_a_layer_as_it_was() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(16, 8)
    inputs = torch.randn(200, 16, generator=generator) * torch.linspace(0.1, 3, 16) + 1
    options = AdaLog(bits=8, candidates=32, rounds=1)
    fitted = options._after_norm(layer.weight.detach()[None], inputs[None], torch.arange(200))
    around = fitted.around
    moved = inputs / around["ratio"] - around["offset"]
    with torch.no_grad():
        output = F.linear(moved, layer.weight * around["ratio"], layer.bias) + around["correction"]
        torch.testing.assert_close(output, layer(inputs), atol=1e-5, rtol=1e-5)
        made = low_bit(layer, fitted.weight, fitted.rounding, **around)
        error = (made(inputs) - layer(inputs)).square().mean() / layer(inputs).var()
    assert error < 1e-3


def test_same_generator_gives_the_same_and_the_search_looks_at_what_it_is_told_to() -> None:
    options = AdaLog(images=6, candidates=32, rounds=1, tokens=20)
    keys = [quantised(small("vit"), each).state_key() for each in (options, options, QUICK)]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.slow
def test_memory_for_candidates_changes_next_to_nothing() -> None:
    wide, narrow = (
        quantised(small("vit"), AdaLog(images=4, candidates=32, rounds=1, search="plain", budget=budget))
        for budget in (16, 0.01)
    )
    for path, layer in wide.layers.items():
        assert (layer.stored.codes() == narrow.layers[path].stored.codes()).float().mean() > 0.97


def test_it_is_restored_from_what_it_saves() -> None:
    backbone = small("vit")
    made = quantised(backbone, QUICK)
    images = pictures(5, seed=1)
    with torch.no_grad():
        expected = backbone(images)
        other = small("vit")
        again = restored(other, QUICK, made.described(), made.state())
        assert torch.equal(other(images), expected)
    assert again.state_key() == made.state_key()


@pytest.mark.parametrize("candidates", [100, 16])
def test_number_of_candidates_has_to_make_a_grid(candidates: int) -> None:
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError, match="candidates"):
        TypeAdapter(AdaLog).validate_python({"candidates": candidates})
