"""Read what Hugging Face peft saved: a folder with ``adapter_config.json`` and ``adapter_model.safetensors``.

It is attached as the ``peft.<method>`` of the same mathematics. What has none here, such as another rank in
some layers or a layer outside blocks, is refused in one line that names it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from clbench import petl
from clbench.backbones.backbone import Backbone
from clbench.errors import UserError
from clbench.options import SpecError, build
from clbench.outside.finite import refuse_any_not_finite
from clbench.petl.attached import Attached
from clbench.petl.hugging_face import REFUSED, WHOLE, PeftMethod
from clbench.petl.parts.peft_branch import PeftBranch
from clbench.petl.parts.peft_layers import ADAPTER, START

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
LAYERS, SHARED = "base_model.model.", "base_model."  # what names of tensors begin with, in layers and outside
# Fields that say where a module comes from, on which layers it is (tensors tell) and how it was trained.
ASIDE = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"}
ASIDE |= {"exclude_modules", "feedforward_modules", "layers_pattern", "layers_to_transform", "target_modules"}
ASIDE |= {"beta1", "beta2", "deltaT", "orth_reg_weight", "target_r", "tfinal", "tinit", "total_step"}
ASIDE |= {"modules_to_save", "task_type", "save_projection"}
# First values of what is trained, which the saved values replace.
STARTS: dict[str, tuple[Any, ...]] = {
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
    "init_weights": (True, False),
}


class PeftFileError(UserError, ValueError):
    """A folder of peft's that cannot be read, or holds what no module here computes."""


@dataclass(frozen=True)
class Saved:
    """What lies in a folder."""

    folder: Path
    config: Mapping[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> Saved:
        """Read both files; PeftFileError where one is missing or is something else."""
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            tensors = load_file(folder / TENSORS)
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            raise PeftFileError(f"cannot read {CONFIG} and {TENSORS} in {folder}: {error}") from error
        if not isinstance(config, dict) or "peft_type" not in config:
            raise PeftFileError(f"{folder / CONFIG} does not say which method of peft it belongs to")
        refuse_any_not_finite(tensors, str(folder / TENSORS))
        return cls(folder, config, tensors)

    def refused(self, reason: str) -> PeftFileError:
        """Return the line that says why this cannot be read."""
        return PeftFileError(f"{self.folder} holds {self.config['peft_type']}, saved by peft: {reason}")


def folder_of_peft(file: Path) -> Path | None:
    """Return the folder that peft saved to, given that or its file of tensors; None for anything else."""
    folder = file if file.is_dir() else file.parent
    is_one = file.is_dir() or (file.name == TENSORS and (folder / CONFIG).is_file())
    return folder if is_one else None


def method_of(saved: Saved) -> tuple[str, dict[str, Any]]:
    """Return the name and the options, but for the sites, of the module that computes the same."""
    kind, reasons = str(saved.config["peft_type"]), []
    for name in petl.names():
        method = petl.get(name) if name.startswith("peft.") else None
        if method is None or not issubclass(method, PeftMethod) or method.method != kind:
            continue
        options = {ours: saved.config.get(theirs) for ours, theirs in method.keywords.items() if theirs}
        reason = _difference(saved.config, method, options)
        if reason is None:
            return name, options
        reasons.append((name, reason))
    if not reasons:
        raise saved.refused(REFUSED.get(kind, "it is no peft.<method> here"))
    name, reason = min(reasons, key=lambda each: len(petl.get(each[0]).fixed))  # type: ignore[attr-defined]  # all are PeftMethods
    raise saved.refused(f"{reason}, which {name} has not")


def _difference(config: Mapping[str, Any], method: type[PeftMethod], options: dict[str, Any]) -> str | None:
    """Return in which field a config differs from what the method can be told; None if in none."""
    if method.starts_from_loss:
        return "init_lora_weights='lora_ga'"
    try:
        build(method, "petl", options)
    except SpecError as error:
        return str(error)
    told = {theirs for theirs in method.keywords.values() if theirs}
    usual = _defaults(str(config["peft_type"]))
    for field, value in config.items():
        wanted = method.fixed.get(field, usual.get(field))
        is_start = field not in method.fixed and value in STARTS.get(field, ())
        if field not in told | ASIDE and value != wanted and not is_start:
            return f"{field}={value!r}"
    return None


def _defaults(kind: str) -> dict[str, Any]:
    """Return the fields of peft's config and their defaults, as JSON has them."""
    from peft import mapping
    from peft.utils import PeftType

    config = cast("Any", mapping.PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)])
    made = {
        field.name: field.default_factory() if callable(field.default_factory) else field.default
        for field in dataclasses.fields(config)
    }
    return dict(json.loads(json.dumps(made, default=str)))


def sites_of(saved: Saved, backbone: Backbone) -> dict[tuple[int, str], dict[str, Tensor]]:
    """Return what was saved for each block's sites, by peft's names in a layer.

    PeftFileError for layers that differ from block to block.
    """
    found: dict[tuple[int, str], dict[str, Tensor]] = {}
    for block, name, path in _layers(backbone):
        start = f"{LAYERS}{path}."
        own = {key[len(start) :]: saved.tensors[key] for key in saved.tensors if key.startswith(start)}
        if own:
            found[block, name] = own
    for name in {name for _, name in found}:
        blocks = [block for block, each in found if each == name]
        if len(blocks) < len(backbone.blocks):
            raise saved.refused(
                f"{name} is adapted in block {', '.join(map(str, blocks))} only, not in every one"
            )
    if not found:
        near = next(iter(saved.tensors), "nothing")
        raise saved.refused(f"{near} belongs to no linear layer in the blocks of {backbone.name}")
    return found


def _layers(backbone: Backbone) -> Iterator[tuple[int, str, str]]:
    """Yield block, site and timm's name of each layer that can be adapted."""
    opened = dict(backbone.model.named_parameters())
    plain = {id(opened[name]): plain for plain, name in backbone.plain_names.items() if name in opened}
    for block in backbone.blocks:
        for name in WHOLE:
            if block.has(name) and isinstance(block[name].layer, nn.Linear):
                weight = cast("nn.Linear", block[name].layer).weight
                yield block.index, name, plain[id(weight)].rpartition(".")[0]


@torch.no_grad()
def fill(attached: Attached, saved: Saved, layers: dict[tuple[int, str], dict[str, Tensor]]) -> None:
    """Give a module, and the model's classifier, the saved values; PeftFileError if they do not fit."""
    pairs: list[tuple[str, Tensor, Tensor]] = []
    branches = [cast("PeftBranch", branch) for branch in attached.branches]
    for branch, (place, tensors) in zip(branches, layers.items(), strict=True):
        where, own = f"block[{place[0]}].{place[1]}: ", _named(branch.layer)
        pairs += _pairs(tensors, dict(_parts(branch)) | own, where, saved)
        missing = [key for key, tensor in own.items() if tensor.requires_grad and key not in tensors]
        if missing:
            raise saved.refused(f"{where}{missing[0]} is missing")
    outside = {
        key: each for key, each in saved.tensors.items() if not _belongs(key, attached.backbone, layers)
    }
    shared = {f"{SHARED}{name}": tensor for branch in branches for name, tensor in _parts(branch)}
    heads = {f"{LAYERS}{name}": tensor for name, tensor in _classifier(attached.backbone)}
    pairs += _pairs(outside, heads | shared, "", saved)
    for key, target, value in pairs:
        if target.shape != value.shape:
            raise saved.refused(f"{key} is {tuple(value.shape)}, not {tuple(target.shape)}")
        if not isinstance(target, nn.Parameter) and not torch.allclose(target.cpu(), value.to(target.dtype)):
            raise saved.refused(f"{key} is drawn otherwise here")
    for _, target, value in pairs:
        target.copy_(value)


def _pairs(
    tensors: Mapping[str, Tensor], places: Mapping[str, Tensor], where: str, saved: Saved
) -> list[tuple[str, Tensor, Tensor]]:
    """Put each saved tensor beside its place; PeftFileError for one without."""
    for key in tensors:
        if key not in places:
            raise saved.refused(f"{where}{key} has no place in this module")
    return [(f"{where}{key}", places[key], value) for key, value in tensors.items()]


def _named(layer: nn.Module) -> dict[str, Tensor]:
    """Return a layer's tensors by the names that peft saves them under."""
    named: dict[str, Tensor] = {}
    for key, tensor in (*layer.named_parameters(), *layer.named_buffers()):
        parts = key.split(".")
        if START not in parts:
            kept = [part for part in parts if part != ADAPTER]
            is_vector = kept[0] == "lora_magnitude_vector"  # of DoRA, which alone loses its last word
            named[kept[0] if is_vector else ".".join(kept)] = tensor
    return named


def _parts(branch: PeftBranch) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a layer shares with others."""
    shared = {id(part) for part in branch.shared}
    for name, part in vars(branch.layer).items():
        if id(part) in shared:
            for key, tensor in (*part.named_parameters(), *part.named_buffers()):
                yield ".".join([name, *(word for word in key.split(".") if word != ADAPTER)]), tensor


def _classifier(backbone: Backbone) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the model's classifier, by timm's names."""
    opened = dict(backbone.model.named_parameters())
    own = {id(tensor) for layer in backbone.classifier for tensor in layer.parameters()}
    for plain, name in backbone.plain_names.items():
        if name in opened and id(opened[name]) in own:
            yield plain, opened[name]


def _belongs(key: str, backbone: Backbone, layers: Iterable[tuple[int, str]]) -> bool:
    """Tell whether a tensor is one of a layer that is adapted."""
    chosen = set(layers)
    paths = [path for block, name, path in _layers(backbone) if (block, name) in chosen]
    return any(key.startswith(f"{LAYERS}{path}.") for path in paths)
