"""Check that a quantiser keeps the contract of every quantiser; ``clbench.testing.check_quant`` is this."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.options import refuse_odd_class
from clbench.outside.mistakes import explained
from clbench.petl.norm_tuning import NormTuning
from clbench.quant import Quantiser
from clbench.quant.files import from_bytes, to_bytes
from clbench.quant.parts.low_bit_weight import IN_A_BYTE
from clbench.quant.quantised import Quantised
from clbench.testing.promises import Told, nobody
from clbench.testing.seen import drawn_images, features_of, gap, refuse_changed

HALF_CLOSE = 0.2  # what bfloat16 may change of features, relative to their size
ANOTHER_CODE = 0.5  # the same where rounding may fall to another code for it
SAME = 1e-5  # what two orders of the same float32 sums may differ by, relative to the features' size


def check_quant(quantiser: Quantiser, on: str | Backbone = "vit-micro", *, told: Told = nobody) -> None:
    """Quantise a small backbone, switch, save, load, copy, train through it and take it off again.

    ``on`` is a backbone, or the name of one that gets random weights; ``told`` hears of each promise that is
    kept. AssertionError, or PluginError where the quantiser's own code fails, says what was broken.

    Checked: it is a dataclass whose options can be used; switched off, the backbone is bit for bit what it
    was; the same seed gives the same codes; codes stay in range, and what is rounded stays as it is when it
    is rounded again; the packed bytes are those of the formula; saved and loaded it computes the same; two
    copies are independent; an image's features depend on it alone; it works in bf16; gradients reach modules
    below low-bit layers; detached, nothing of it is left.
    """
    refuse_odd_class(type(quantiser))
    told("it is a dataclass, whose options can be set and whose methods can be called")
    backbone = on if isinstance(on, Backbone) else backbones.create(on, BackboneOptions(weights="none"))
    with explained(quantiser):
        _check(quantiser, backbone, told)


def _check(quantiser: Quantiser, backbone: Backbone, told: Told) -> None:
    size = backbone.preprocessing.image_size
    generator = torch.Generator().manual_seed(0)
    images = drawn_images(backbone, generator)
    seen = torch.randn(quantiser.num_images, 3, size, size, generator=generator)
    float_features, state = features_of(backbone, images), backbone.state_dict()
    twin = copy.deepcopy(backbone)
    form = _quantised(quantiser, backbone, seen)
    features = features_of(backbone, images)
    assert features.isfinite().all(), "a feature is not finite"
    assert not torch.equal(features, float_features), "quantised, the backbone computes what it did before"
    _check_switch(backbone, form, images, float_features, features)
    told("switched off, the backbone is bit for bit what it was")
    other = _quantised(quantiser, twin, seen)
    assert other.state_key() == form.state_key(), "the same seed gives other codes"
    told("the same seed gives the same codes")
    _check_codes(backbone, form)
    told("codes stay in range, and what is rounded stays as it is")
    _check_bytes(form)
    told("the packed bytes are those of the formula")
    _check_copies(backbone, other, images, features)
    told("two copies are independent")
    other = from_bytes(to_bytes(form), twin, quantiser, "what was saved")
    assert torch.equal(features_of(twin, images), features), "saved and loaded, it computes something else"
    other.settle()
    assert torch.equal(features_of(twin, images), features), "with the float weights dropped, it does, too"
    told("saved and loaded, it computes the same")
    _check_batch_mates(backbone, images, features)
    told("an image's features do not depend on the others of its batch")
    _check_half_precision(form, backbone, images, features)
    told("it computes in half precision")
    _check_gradients(backbone, images)
    told("gradients reach modules below low-bit layers")
    form.detach()
    assert torch.equal(features_of(backbone, images), float_features), "detached, it still has an effect"
    refuse_changed(backbone, state)
    told("detached, nothing of it is left")


def _quantised(quantiser: Quantiser, backbone: Backbone, images: Tensor) -> Quantised:
    before = torch.get_rng_state()
    form = quantiser.quantise(backbone, images, torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state()), "quantising draws from torch's global generator"
    assert form.enabled, "quantise() returns a form that is switched off"
    return form


def _check_switch(
    backbone: Backbone, form: Quantised, images: Tensor, float_features: Tensor, features: Tensor
) -> None:
    form.enabled = False
    assert torch.equal(features_of(backbone, images), float_features), "switched off, it still has an effect"
    form.enabled = True
    assert torch.equal(features_of(backbone, images), features), "switched off and on, it has changed"


def _check_codes(backbone: Backbone, form: Quantised) -> None:
    for path, layer in form.layers.items():
        assert int(layer.stored.codes().max()) < 2**layer.stored.bits, f"{path}: a code is out of range"
        assert layer.stored.expanded().isfinite().all(), f"{path}: a weight is not finite"
    roundings = [layer.rounding for layer in form.layers.values() if layer.rounding]
    for rounding in (*roundings, *form.roundings.values()):
        name = type(rounding).__name__
        values = _values_for(rounding.state_dict().values())
        codes, once = rounding.codes(values), rounding(values)
        assert codes.min() >= 0, f"{name}: a code is below 0"
        assert codes.max() < rounding.num_codes, f"{name}: a code is {rounding.num_codes} or more"
        if rounding.is_fixed:
            assert torch.equal(rounding.decoded(codes), once), f"{name}: codes stand for something else"
        is_same = torch.equal(rounding(once), once) or not rounding.is_fixed
        assert is_same, f"{name}: what is rounded changes when it is rounded again"


def _values_for(tensors: Iterable[Tensor]) -> Tensor:
    """Return values of all sizes in the shape that the tensors of a rounding broadcast with."""
    spread = torch.logspace(-4, 1, 64).view(1, 1, 64, 1)
    values = torch.cat((-spread, spread))
    for tensor in tensors:
        values = values + torch.zeros_like(tensor)
    return values


def _check_bytes(form: Quantised) -> None:
    for path, layer in form.layers.items():
        stored = layer.stored
        rows, bits = stored.planes.shape[1], stored.bits
        of_codes = bits * rows * -(-stored.columns // IN_A_BYTE)
        beside = [stored.scale, stored.zero, *([] if stored.levels is None else [stored.levels])]
        expected = of_codes + sum(each.numel() * each.element_size() for each in beside)
        assert stored.num_bytes == expected, f"{path} takes {stored.num_bytes} bytes, not {expected}"


def _check_copies(backbone: Backbone, other: Quantised, images: Tensor, features: Tensor) -> None:
    second = copy.deepcopy(backbone)
    assert torch.equal(features_of(second, images), features), "a copy computes something else"
    other.detach()
    assert torch.equal(features_of(backbone, images), features), "detaching one form changes another"
    for form in second.quantised:
        form.enabled = False
    assert torch.equal(features_of(backbone, images), features), "switching a copy off changes its original"


def _check_batch_mates(backbone: Backbone, images: Tensor, together: Tensor) -> None:
    alone = torch.cat([features_of(backbone, image[None]) for image in images])
    far = gap(alone, together)
    # sums in another order may fall to another code
    assert far < ANOTHER_CODE, f"a feature depends on the other images of its batch: {far:.1e}"


def _check_half_precision(form: Quantised, backbone: Backbone, images: Tensor, full: Tensor) -> None:
    close = (
        ANOTHER_CODE if form.roundings or any(each.rounding for each in form.layers.values()) else HALF_CLOSE
    )
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        far = gap(backbone(images).float(), full)
    assert far < close, f"under bf16 autocast the features differ by {far:.1e}"


def _check_gradients(backbone: Backbone, images: Tensor) -> None:
    module = NormTuning().attach(backbone, torch.Generator().manual_seed(2))
    target = torch.randn(len(images), backbone.width, generator=torch.Generator().manual_seed(3))
    torch.autograd.backward((backbone(images) - target).square().sum())
    missing = [name for name, each in module.named_parameters() if each.grad is None or not each.grad.any()]
    module.enabled = False  # its parameters are in the backbone's places
    frozen = [name for name, each in backbone.named_parameters() if each.grad is not None]
    module.detach()
    assert not missing, f"no gradient reaches {missing[0]}"
    assert not frozen, f"a gradient reaches {frozen[0]}, which is frozen"
