"""Show what the quantisers that look at images have in common: what they round, where, and how well."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.quant import get
from clbench.quant.parts.places import stages
from clbench.quant.quantised import Quantised
from clbench.seeds import forked

NAMES = ["base-ptq", "log-sqrt2", "log2", "minmax", "twin"]
# Those that search take seconds for what all do alike.
SEARCHING_IS_SLOW = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ("base-ptq", "twin") else []) for name in NAMES
]
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit": partial(timm.models.VisionTransformer, 32, 8, embed_dim=32, depth=2, num_heads=2, num_classes=0),
    "swin": partial(
        timm.models.SwinTransformer,
        img_size=32,
        patch_size=4,
        window_size=4,
        embed_dim=16,
        depths=(2, 1),
        num_heads=(2, 4),
        num_classes=0,
    ),
    "convnext": partial(timm.models.ConvNeXt, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=0),
    "convnext v2": partial(
        timm.models.ConvNeXt,
        depths=(1, 1, 1, 1),
        dims=(8, 8, 16, 16),
        num_classes=0,
        use_grn=True,
        ls_init_value=None,
    ),
    "resnet": partial(
        timm.models.ResNet, BasicBlock, layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), num_classes=0
    ),
    "vit of other blocks": partial(
        timm.models.VisionTransformer,
        *(32, 8),
        embed_dim=32,
        depth=1,
        num_heads=2,
        num_classes=0,
        global_pool="map",
        mlp_layer=timm.layers.GluMlp,
    ),
}
# What rounds the probabilities of a ViT and the input behind its GELU; all else is even.
KINDS = {
    "base-ptq": ("Uniform", "Uniform"),
    "log-sqrt2": ("Logarithmic", "Uniform"),
    "log2": ("Logarithmic", "Uniform"),
    "minmax": ("Uniform", "Uniform"),
    "twin": ("TwinSoftmax", "TwinGelu"),
}


def network(name: str) -> Backbone:
    """Return a network whose layers keep the size of what they get, as trained ones do."""
    unit = (1.0, 1.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    with forked(0):  # biases
        model = NETWORKS[name]()
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5, generator=generator)
    return open_model(name, model, Preprocessing(32, unit, unit, 1.0, "bilinear"), source="", digest="")


def images(num: int = 6) -> Tensor:
    return torch.randn((num, 3, 32, 32), generator=torch.Generator().manual_seed(0))


def quantised(backbone: Backbone, name: str, seed: int = 0, **options: int) -> Quantised:
    quick = {"rounds": 1} if name == "twin" else {}
    quantiser = get(name)(**quick, **options)
    return quantiser.quantise(backbone, images(), torch.Generator().manual_seed(seed))


def error(backbone: Backbone, exact: Tensor) -> float:
    """Return how far the features of the images that were looked at are off, as a share of them."""
    return float((backbone(images()) - exact).norm() / exact.norm())


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", SEARCHING_IS_SLOW)
def test_all_products_are_rounded_but_the_images_and_eight_bits_are_enough(name: str, kind: str) -> None:
    backbone = network(kind)
    exact = backbone(images())
    places = [place for stage in stages(backbone) for place in stage.places]
    operands = {site.name for stage in stages(backbone) for site in stage.attention.values()}
    done = quantised(backbone, name, bits=8)
    assert done.layers.keys() == {place.path for place in places}
    assert done.roundings.keys() == operands
    in_float = [path for path, layer in done.layers.items() if layer.rounding is None]
    assert in_float == [place.path for place in places if place.source == "pixels"]
    assert len(in_float) == 1
    # next to 1 the steps of a logarithm stay as they are, however many bits there are
    assert 0 < error(backbone, exact) < (0.3 if name.startswith("log") else 0.1)
    done.detach()
    assert torch.equal(backbone(images()), exact)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("name", SEARCHING_IS_SLOW)
def test_the_error_falls_with_the_bits(name: str, kind: str) -> None:
    backbone = network(kind)
    exact = backbone(images())
    errors = []
    for bits in (8, 4, 2):
        done = quantised(backbone, name, bits=bits)
        errors.append(error(backbone, exact))
        done.detach()
    assert errors == sorted(errors)


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_and_what_a_gelu_gives_have_the_methods_own_rounding(name: str) -> None:
    backbone = network("vit")
    done = quantised(backbone, name, weight_bits=6, activation_bits=5)
    after_gelu = next(p.path for s in stages(network("vit")) for p in s.places if p.source == "gelu")
    described = done.described()
    assert (described["block[0].attn.probs"][0], described[after_gelu][0]) == KINDS[name]
    others = described.keys() - {site for site in described if site.endswith("probs") or "fc2" in site}
    assert {described[place][0] for place in others} == {"Uniform"}
    assert {bits for _, bits in described.values()} == {5}
    assert {layer.stored.bits for layer in done.layers.values()} == {6}


@pytest.mark.parametrize("name", NAMES)
def test_weights_have_a_grid_an_output_channel_and_inputs_one(name: str) -> None:
    done = quantised(network("convnext"), name)
    for layer in done.layers.values():
        assert layer.stored.scale.shape == layer.stored.zero.shape == (layer.weight.shape[0], 1)
        tensors = [] if layer.rounding is None else list(layer.rounding.buffers())
        assert all(tensor.shape == () for tensor in tensors)


@pytest.mark.parametrize("name", NAMES)
def test_only_base_ptq_has_one_grid_for_all_heads(name: str) -> None:
    done = quantised(network("vit"), name)
    shape = () if name == "base-ptq" else (1, 2, 1, 1)
    for operand in ("queries", "keys", "values"):
        assert done.roundings[f"block[1].attn.{operand}"].get_buffer("scale").shape == shape


def test_only_log_sqrt2_puts_something_around_a_rounding_and_only_behind_a_norm() -> None:
    for kind in ("vit", "swin", "convnext"):
        backbone = network(kind)
        behind_norm = {
            place.path for stage in stages(backbone) for place in stage.places if place.source == "norm"
        }
        assert behind_norm
        done = quantised(backbone, "log-sqrt2")
        around = {path for path, layer in done.layers.items() if getattr(layer, "ratio", None) is not None}
        assert around == behind_norm
        done.detach()
        assert not any("ratio" in place for place in quantised(backbone, "minmax").state())


def test_behind_a_response_norm_nothing_is_taken_for_what_a_gelu_gives() -> None:
    done = quantised(network("convnext v2"), "twin", bits=8)
    assert {kind for kind, _ in done.described().values()} == {"Uniform"}
    assert {kind for kind, _ in quantised(network("convnext"), "twin").described().values()} > {"TwinGelu"}
