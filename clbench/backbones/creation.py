"""Create a backbone: find the architecture, give it weights, fit it to the image size, and open it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

# Importing a family's file registers how its models are opened.
from clbench.backbones import BackboneOptions, convnext, mobilenet, registry, resnet, swin, vit
from clbench.backbones.architecture import Architecture
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.carried import NAME, Carried
from clbench.backbones.given import Given
from clbench.backbones.hub import TimmArchitecture, expected_images
from clbench.backbones.opening import CannotOpenError, opened, resize
from clbench.backbones.sites import Site
from clbench.backbones.weights import check_tensors, load_weights, read_classifier, weights_digest
from clbench.outside.finite import refuse_any_not_finite
from clbench.seeds import forked

__all__ = ["convnext", "create_backbone", "mobilenet", "open_model", "resnet", "swin", "vit"]

NORMALISATIONS = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def create_backbone(
    name: str,
    options: BackboneOptions,
    *,
    seed: int,
    folder: Path | None = None,
    given: Given | None = None,
    digest: str = "",
) -> Backbone:
    """Return the named backbone, frozen and in eval mode; published weights may lie in ``folder``.

    Weights that are ``given`` take the place of those that the options name; of a name that has stood for
    several networks, the one whose weights have the ``digest`` is taken. The global generators are left as
    they were, whatever is drawn.
    """
    chosen = architecture(name)
    if given:
        return _with_given(name, _of_names(chosen, given, seed), options, given, seed)
    backbone = _made(name, chosen, options, seed, folder)
    if backbone.weights_digest != digest and digest and options.weights == "default":
        earlier = (_made(name, each, options, seed, folder) for each in chosen.earlier())
        return next((each for each in earlier if each.weights_digest == digest), backbone)
    return backbone


def _of_names(chosen: Architecture, given: Given, seed: int) -> Architecture:
    """Return which of the networks of a name has the tensors that are given; the newest where none has."""
    for each in chosen.earlier():
        with forked(seed):
            model = each.build()
        if model.state_dict().keys() == given.tensors.keys() | given.absent:
            return each
    return chosen


def _made(
    name: str, chosen: Architecture, options: BackboneOptions, seed: int, folder: Path | None
) -> Backbone:
    beside = _beside(folder, chosen) if options.weights == "default" else None
    with forked(seed):
        if options.weights == "default" and not beside:
            model, source = chosen.published()
        else:
            model, source = chosen.build(), "random"
    if beside:
        load_weights(model, beside)
        source = beside.name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's interpolation of Swin's biases indexes in a deprecated way
        preprocessing = _fitted(model, chosen, options)
        if options.weights not in ("default", "none"):
            load_weights(model, Path(options.weights))
            source = Path(options.weights).name
    digest = weights_digest(model)
    model = model.to(DTYPES[options.dtype])
    refuse_any_not_finite(model.state_dict(), f"backbone {name} ({source} weights, {options.dtype})")
    backbone = open_model(name, model, preprocessing, source=source, digest=digest)
    backbone.notes = [f"weights: {beside}, found beside the data"] if beside else []
    return backbone


def _with_given(
    name: str, chosen: Architecture, options: BackboneOptions, given: Given, seed: int
) -> Backbone:
    with forked(seed):
        model = chosen.build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        preprocessing = _fitted(model, chosen, options)
    model = model.to(DTYPES[options.dtype])
    own = model.state_dict()
    tensors = {**{name: own[name] for name in given.absent & own.keys()}, **given.tensors}
    check_tensors(tensors, own, given.source)
    refuse_any_not_finite(tensors, given.source)
    model.load_state_dict(tensors)
    return open_model(name, model, preprocessing, source=given.source, digest=given.digest)


def _beside(folder: Path | None, chosen: Architecture) -> Path | None:
    """Return the file of a network's published weights that lies in a folder, if one does."""
    files = [folder / f"{name}.safetensors" for name in chosen.file_names()] if folder else []
    return next((file for file in files if file.is_file()), None)


def classifier_of(
    name: str, options: BackboneOptions, width: int, *, folder: Path | None = None
) -> tuple[Tensor, Tensor] | None:
    """Return weight (C, width) and bias (C,) of the classifier that lies in the file of a backbone's weights.

    None where there is none: of weights from the hub or this package none is known. Backbones have none.
    """
    if options.weights == "none":
        return None
    file = _beside(folder, architecture(name)) if options.weights == "default" else Path(options.weights)
    return read_classifier(file, width) if file else None


def open_in_place(model: nn.Module) -> Backbone:
    """Return a backbone around a timm model with its classifier, which alone stays trainable.

    Calling ``model`` gives its logits as before; calling the backbone gives features. The model carries the
    modules that are attached to it.
    """
    if any(isinstance(module, Site) for module in model.modules()):
        raise CannotOpenError("this model was opened before; attach to the backbone of its first module")
    name = type(model).__name__
    backbone = open_model(name, model, expected_images(model), source="given", digest="")
    for layer in backbone.classifier:
        layer.requires_grad_(True)
    model.add_module(NAME, Carried(backbone))
    return backbone


def open_model(
    name: str, model: nn.Module, preprocessing: Preprocessing, *, source: str, digest: str
) -> Backbone:
    """Return a frozen backbone around a timm model, which is opened in place."""
    model.requires_grad_(False).eval()
    plain = model.state_dict(keep_vars=True)
    sites = opened(model)
    names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    backbone = Backbone(
        name,
        model,
        width=sites.width,
        blocks=sites.blocks,
        grid=sites.grid,
        sites=sites.sites,
        memory_format=sites.memory_format,
        preprocessing=preprocessing,
        weights_source=source,
        weights_digest=digest,
        plain_names=[(name, names[id(tensor)]) for name, tensor in plain.items()],
    )
    return backbone.eval()


def architecture(name: str) -> Architecture:
    """Return what is registered under the name, or timm's network of that name."""
    if name in registry.names() or ":" in name or name.endswith(".py"):
        return registry.get(name)()
    return TimmArchitecture(name)


def _fitted(model: nn.Module, chosen: Architecture, options: BackboneOptions) -> Preprocessing:
    """Make a model take images of the size that the options name; return what it expects of them."""
    native = chosen.preprocessing(model)
    preprocessing = _overridden(native, options)
    if preprocessing.image_size != native.image_size:
        resize(model, preprocessing.image_size)
    return preprocessing


def _overridden(native: Preprocessing, options: BackboneOptions) -> Preprocessing:
    mean, std = NORMALISATIONS.get(options.normalise, (native.mean, native.std))
    return replace(
        native,
        image_size=options.image_size or native.image_size,
        mean=mean,
        std=std,
        crop=options.crop or native.crop,
        interpolation=native.interpolation if options.interpolation == "model" else options.interpolation,
    )
