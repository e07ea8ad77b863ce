"""Read weights from a file into an unopened model, completely or not at all, and hash them.

``.safetensors``, ``.pth``/``.pt``/``.bin`` (tensors only, no code is run) and, for a Vision Transformer, the
``.npz`` of its original release. Spellings of other releases and other image sizes are timm's affair: its
checkpoint filters rename the tensors and interpolate position embeddings.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from timm.models import load_state_dict
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from clbench.backbones.given import BUNDLED, tensors_digest
from clbench.errors import UserError
from clbench.outside.finite import refuse_any_not_finite
from clbench.outside.foreign import DAMAGE, check_unpacked, npz_headers

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz")
CLASSIFIERS = ("head", "head_dist", "head.fc", "fc", "classifier", "linear")  # names in files; ours have none
POSITIONS = ("pos_embed", "relative_position_bias_table")  # what depends on the size of the image
UNREADABLE: tuple[type[Exception], ...] = (*DAMAGE, SafetensorError)


class WeightsError(UserError, ValueError):
    """Weights that cannot be had, or do not fit the model."""


def load_weights(model: nn.Module, file: Path) -> None:
    """Fill the model from a file; WeightsError if it cannot be read or does not fit."""
    if file.suffix not in SUFFIXES:
        allowed = ", ".join(SUFFIXES)
        raise WeightsError(f"backbone.weights: {str(file)!r} is neither default, none nor a file ({allowed})")
    if not file.is_file():
        raise WeightsError(f"backbone.weights: no file {file}")
    if file.suffix == ".npz":
        _load_npz(model, file)
        return
    tensors = _without_classifier(_read(file))
    wanted = model.state_dict()
    if not _fits(tensors, wanted):
        tensors = _without_classifier(_converted(tensors, model, file))
    check_tensors(tensors, wanted, file)
    refuse_any_not_finite(tensors, f"backbone.weights: {file}")
    model.load_state_dict(tensors)


def read_classifier(file: Path, width: int) -> tuple[Tensor, Tensor] | None:
    """Return weight (C, width) and bias (C,) of the classifier that a file holds; None where none fits."""
    tensors = {} if file.suffix == ".npz" else _read(file)
    for name in CLASSIFIERS:
        weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
        if weight is not None and bias is not None and weight.shape == (len(bias), width):
            return weight.float(), bias.float()
    return None


def weights_digest(model: nn.Module) -> str:
    """Return a SHA-256 over the names, types, shapes and values of the model's state."""
    return tensors_digest(model.state_dict())


def _read(file: Path) -> dict[str, Tensor]:
    try:
        tensors = load_state_dict(str(file), weights_only=True)
    except UNREADABLE as error:
        raise _unreadable(file, error) from error
    found = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    bundled = {name.removeprefix(BUNDLED): each for name, each in found.items() if name.startswith(BUNDLED)}
    return bundled or found


def _unreadable(file: Path, error: Exception) -> WeightsError:
    reason = str(error).strip().split("\n", 1)[0]
    return WeightsError(f"backbone.weights: cannot read {file} ({type(error).__name__}: {reason:.80})")


def _without_classifier(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] not in CLASSIFIERS}


def _fits(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return tensors.keys() == wanted.keys() and all(
        tensors[name].shape == wanted[name].shape for name in wanted
    )


def _converted(tensors: dict[str, Tensor], model: nn.Module, file: Path) -> dict[str, Tensor]:
    """Apply the checkpoint filter that timm keeps beside the model's class, if it has one."""
    wanted = model.state_dict()
    for name, tensor in tensors.items():
        is_resized = name in wanted and tensor.numel() != wanted[name].numel()
        if is_resized and not name.endswith(POSITIONS):  # timm would resize patch embeddings without a word
            raise _misfit(file, name, tensor, wanted[name])
    convert = vars(sys.modules[type(model).__module__]).get("checkpoint_filter_fn")
    if convert is None:
        return tensors
    try:
        return dict(convert(tensors, model))
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"backbone.weights: the tensors of {file} are not those of a {type(model).__name__} of this size"
        ) from error


def check_tensors(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], file: Path | str) -> None:
    """Raise WeightsError unless the names are the same and every tensor has the model's shape."""
    for words, names in (
        ("lacks", wanted.keys() - tensors.keys()),
        ("has, unlike this model,", tensors.keys() - wanted.keys()),
    ):
        if names:
            listed = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise WeightsError(f"backbone.weights: {file} {words} {len(names)} tensor(s): {listed}")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            raise _misfit(file, name, tensors[name], tensor)


def _misfit(file: Path | str, name: str, tensor: Tensor, wanted: Tensor) -> WeightsError:
    return WeightsError(
        f"backbone.weights: {name} is {tuple(tensor.shape)} in {file} and {tuple(wanted.shape)} in this model"
    )


def _load_npz(model: nn.Module, file: Path) -> None:
    """Let timm read the original release, which names its tensors another way."""
    if not isinstance(model, VisionTransformer):
        raise WeightsError(f"backbone.weights: {file}: an .npz holds a ViT, this is a {type(model).__name__}")
    try:
        with zipfile.ZipFile(file) as archive:
            headers = npz_headers(archive)
        check_unpacked(file, headers)
        patch = headers["embedding/kernel"].shape[:2]
        layers = {part for name in headers for part in name.split("/") if "encoderblock_" in part}
    except DAMAGE as error:
        raise _unreadable(file, error) from error
    asked = (tuple(model.patch_embed.patch_size), len(model.blocks))
    if asked != (patch, len(layers)):
        raise WeightsError(
            f"backbone.weights: {file} holds a ViT of {len(layers)} blocks and patch size {patch[0]};"
            f" this one has {asked[1]} and {asked[0][0]}"
        )
    try:
        model.load_pretrained(str(file))
    except DAMAGE as error:
        raise _unreadable(file, error) from error
    refuse_any_not_finite(model.state_dict(), f"backbone.weights: {file}")
