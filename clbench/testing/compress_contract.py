"""Check that a token compressor keeps the contract of all; ``clbench.testing.check_compress`` is this."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor, nn

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.compress import Compressor
from clbench.compress.compressed import Compressed
from clbench.compress.parts.places import num_tokens_of
from clbench.options import refuse_odd_class
from clbench.outside.mistakes import explained
from clbench.petl import Petl
from clbench.petl.attached import Attached
from clbench.testing.promises import Told, nobody
from clbench.testing.seen import drawn_images, features_of, gap, refuse_changed

CLOSE = 1e-5  # what two orders of the same float32 sums may differ by, relative to the features' size
HALF_CLOSE = 0.5  # what bfloat16 may: besides its 8 bits, other tokens may come out as the most alike
BREAKING = (
    "attn.proj",
    "mlp",
)  # sites in a block where a pass breaks off: before its tokens move, and behind
BESIDE = ("input", "attn.keys", "between", "mlp", "")  # sites in a block that a module attaches to


def check_compress(compressor: Compressor, on: str | Backbone = "vit-micro", *, told: Told = nobody) -> None:
    """Compress a small transformer by all degrees, switch, break off, copy, train through it and take it off.

    ``on`` is a backbone, or the name of one that gets random weights; ``told`` hears of each promise that is
    kept. AssertionError, or PluginError where the compressor's own code fails, says what was broken.

    Checked: it is a dataclass whose options can be used; where it removes nothing, switched off and detached,
    the backbone is bit for bit the plain one; behind each block are as many tokens as ``tokens_after`` says;
    class, distillation and register tokens come through every step as they are; degrees are told apart, and
    changing to one is like beginning with it; an image's features depend on it alone; no pass leaves anything
    to the next, even if it breaks off; copies are independent; modules and compressor can come in any order;
    gradients reach modules in every block; it computes in half precision.
    """
    refuse_odd_class(type(compressor))
    told("it is a dataclass, whose options can be set and whose methods can be called")
    backbone = on if isinstance(on, Backbone) else backbones.create(on, BackboneOptions(weights="none"))
    with explained(compressor):
        _check(compressor, backbone, told)


def _check(compressor: Compressor, backbone: Backbone, told: Told) -> None:
    images = drawn_images(backbone, torch.Generator().manual_seed(0))
    plain = features_of(backbone, images)
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    _check_degrees(compressor, backbone, images, plain)
    told("each degree leaves as many tokens as it says, and one that removes none changes nothing")
    form = compressor.compress(backbone)
    features = features_of(backbone, images)
    assert form.enabled, "compress() returns a form that is switched off"
    assert features.isfinite().all(), "a feature is not finite"
    _check_prefix(backbone, images)
    told("class, distillation and register tokens come through every step as they are")
    _check_switch(backbone, form, images, plain, features)
    told("switched off, the backbone is bit for bit what it was")
    _check_batch_mates(backbone, images, features)
    told("an image's features do not depend on the others of its batch")
    _check_passes(backbone, images, features)
    told("no pass leaves anything to the next, even if it breaks off")
    _check_copies(backbone, images, features)
    told("copies are independent")
    _check_half_precision(backbone, images, features)
    told("it computes in half precision")
    form.detach()
    _check_company(compressor, backbone, images)
    told("modules and compressor can come in any order, and gradients reach modules in every block")
    assert torch.equal(features_of(backbone, images), plain), "detached, it still has an effect"
    assert not any(site.tokens for site in backbone.sites.values()), "detached, a step is left at a site"
    refuse_changed(backbone, state)
    told("detached, nothing of it is left")


def _check_degrees(compressor: Compressor, backbone: Backbone, images: Tensor, plain: Tensor) -> None:
    """Begin with each degree, and come to each from the one before."""
    depth = len(backbone.blocks)
    degrees = compressor.degrees(depth)
    assert degrees, "degrees() returns none"
    begun = [_begun(degree, backbone, images) for degree in degrees]
    num_tokens, num_prefix = num_tokens_of(backbone)
    if degrees[0].tokens_after(num_tokens, num_prefix, depth) == [num_tokens] * depth:
        is_same = degrees[0].plugin_file != "" or torch.equal(begun[0][1], plain)
        assert is_same, f"no token is removed, yet the features differ: {degrees[0]}"
    keys = [key for key, _ in begun]
    assert len(set(keys)) == len(keys), "two degrees have the same state_key()"
    if compressor.plugin_file:
        return  # made for one way, it is in the weights already
    form = degrees[-1].compress(backbone)
    for degree, (key, features) in zip(degrees, begun, strict=True):
        form.degree = degree
        is_same = torch.equal(features_of(backbone, images), features) and form.state_key() == key
        assert is_same, f"changing to {degree} is not like beginning with it"
    form.detach()


def _begun(degree: Compressor, backbone: Backbone, images: Tensor) -> tuple[str, Tensor]:
    """Return the key and the features of a degree, its numbers of tokens checked."""
    num_tokens, num_prefix = num_tokens_of(backbone)
    depth = len(backbone.blocks)
    form = degree.compress(backbone)
    counts: list[int] = []
    with ExitStack() as hooks:
        for block in backbone.blocks:
            hooks.enter_context(_heard(block[""], lambda inputs, output: counts.append(output.shape[1])))
        features = features_of(backbone, images)
    expected = degree.tokens_after(num_tokens, num_prefix, depth)
    assert counts == expected, f"behind the blocks are {counts} tokens, not {expected}: {degree}"
    key = form.state_key()
    form.detach()
    return key, features


@contextmanager
def _heard(module: nn.Module, told: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Tell what goes into a module and what comes out of it, for a while."""
    handle = module.register_forward_hook(lambda _, inputs, output: told(inputs[0], output))
    try:
        yield
    finally:
        handle.remove()


def _check_prefix(backbone: Backbone, images: Tensor) -> None:
    """Compare the tokens in front before and behind each step that a sequence of tokens takes."""
    _, num_prefix = num_tokens_of(backbone)
    with ExitStack() as hooks:
        for site in backbone.sites.values():
            if site.tokens is not None:
                hooks.enter_context(_heard(site.tokens, partial(_expect_prefix, site.name, num_prefix)))
        features_of(backbone, images)


def _expect_prefix(site: str, num_prefix: int, inputs: Tensor, output: Tensor) -> None:
    is_sequence = inputs.ndim == output.ndim == len("BND")
    is_same = not is_sequence or torch.equal(inputs[:, :num_prefix], output[:, :num_prefix])
    assert is_same, f"at {site} a class, distillation or register token is changed, or not at its place"


def _check_switch(
    backbone: Backbone, form: Compressed, images: Tensor, plain: Tensor, features: Tensor
) -> None:
    form.enabled = False
    assert torch.equal(features_of(backbone, images), plain), "switched off, it still has an effect"
    form.enabled = True
    assert torch.equal(features_of(backbone, images), features), "switched off and on, it has changed"


def _check_batch_mates(backbone: Backbone, images: Tensor, together: Tensor) -> None:
    alone = torch.cat([features_of(backbone, image[None]) for image in images])
    far = gap(alone, together)
    assert far < CLOSE, f"a feature depends on the other images of its batch: {far:.1e}"


class _Stopped(Exception):
    """A pass breaks off."""


def _stop(*_: object) -> NoReturn:
    raise _Stopped


def _check_passes(backbone: Backbone, images: Tensor, features: Tensor) -> None:
    """Compute other images in between, to the end and up to each place where something may be left."""
    others = images.flip(0)
    features_of(backbone, others)
    assert torch.equal(features_of(backbone, images), features), "a pass has an effect on the next"
    for block in backbone.blocks:
        for name in BREAKING:
            handle = block[name].register_forward_pre_hook(_stop)
            with suppress(_Stopped):
                backbone(others)  # with gradients
            handle.remove()
            if block is backbone.blocks[-1]:
                second = copy.deepcopy(backbone)
                assert torch.equal(features_of(second, images), features), "a copy remembers a pass"
            is_same = torch.equal(features_of(backbone, images), features)
            assert is_same, f"a pass that broke off in block {block.index} has an effect on the next"


def _check_copies(backbone: Backbone, images: Tensor, features: Tensor) -> None:
    second = copy.deepcopy(backbone)
    assert torch.equal(features_of(second, images), features), "a copy computes something else"
    for form in second.compressed:
        form.enabled = False
    assert torch.equal(features_of(backbone, images), features), "switching a copy off changes its original"


def _check_half_precision(backbone: Backbone, images: Tensor, full: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        far = gap(features_of(backbone, images).float(), full)
    assert far < HALF_CLOSE, f"under bf16 autocast the features differ by {far:.1e}"
    kept = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.model.bfloat16()
    far = gap(features_of(backbone, images), full)
    backbone.model.float()
    backbone.load_state_dict(kept)
    assert far < HALF_CLOSE, f"over a bf16 backbone the features differ by {far:.1e}"


class _Mixed(Branch):
    """``a * output + b * input``."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.rand(2, generator=generator))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        return self.scales[0] * output + self.scales[1] * inputs


@dataclass(frozen=True)
class _Everywhere(Petl):
    """A branch at each site of a block that a compressor may change, too."""

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        for block in backbone.blocks:
            yield from ((block[name], _Mixed(generator)) for name in BESIDE)


def _check_company(compressor: Compressor, backbone: Backbone, images: Tensor) -> None:
    """Attach and compress in both orders, and learn something."""
    module = _attached(backbone)
    form = compressor.compress(backbone)
    after = features_of(backbone, images)
    target = torch.randn(after.shape, generator=torch.Generator().manual_seed(2))
    torch.autograd.backward((backbone(images) - target).square().sum())
    missing = [name for name, each in module.named_parameters() if each.grad is None or not each.grad.any()]
    frozen = [name for name, each in backbone.named_parameters() if each.grad is not None]
    assert not missing, f"no gradient reaches {missing[0]} of the module that is attached"
    assert not frozen, f"a gradient reaches {frozen[0]}, which is frozen"
    module.detach()
    module = _attached(backbone)
    before = features_of(backbone, images)
    form.detach()
    module.detach()
    assert torch.equal(before, after), "it makes a difference whether a module or the compressor comes first"


def _attached(backbone: Backbone) -> Attached:
    return _Everywhere().attach(backbone, torch.Generator().manual_seed(1))
