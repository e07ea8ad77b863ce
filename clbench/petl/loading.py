"""Attach a module to any model: by its name and options, or from the file that it was written to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from clbench import petl
from clbench.backbones.backbone import Backbone
from clbench.backbones.creation import open_in_place
from clbench.backbones.restoring import unchanged_if_it_fails
from clbench.errors import UserError
from clbench.options import build
from clbench.outside.finite import refuse_any_not_finite
from clbench.petl.attached import Attached
from clbench.petl.peft_files import CONFIG, LAYERS, TENSORS, Saved, fill, folder_of_peft, method_of, sites_of
from clbench.petl.saving import FORMAT
from clbench.quant.packed import unpack
from clbench.seeds import Seeds


class PetlFileError(UserError, ValueError):
    """A file that holds no module, or one that does not fit the model."""


def attach_by_name(model: nn.Module | Backbone, name: str, options: dict[str, Any], seed: int) -> Attached:
    """Build the named module from its options and attach it; a model that it does not fit stays as it was."""
    recipe = build(petl.get(name), "petl", options)
    with unchanged_if_it_fails(model):
        backbone = model if isinstance(model, Backbone) else open_in_place(model)
        return recipe.attach(backbone, Seeds(seed).generator("petl"))


def load_attached(model: nn.Module | Backbone, file: Path) -> Attached:
    """Attach what a file holds, or what peft saved to a folder; quantised weights learn no more."""
    if folder := folder_of_peft(file):
        return _load_from_peft(model, Saved.read(folder))
    about, state = _read_tensors(file)
    if about.get("format") != FORMAT:
        from_peft = any(key.startswith(LAYERS) for key in state)
        hint = (
            f": peft saved it, and its {CONFIG} is not beside it under the name {TENSORS}"
            if from_peft
            else ""
        )
        raise PetlFileError(f"{file} is no file that a module was saved to{hint}")
    name, options = _name_and_options(file, about)
    refuse_any_not_finite(state, f"{file} ({name})")
    with unchanged_if_it_fails(model):
        attached = attach_by_name(model, name, options, seed=0)
        try:
            unpack(attached, state)
        except (RuntimeError, KeyError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise PetlFileError(f"{file} holds {name} for another backbone: {reason}") from error
    return attached


def _load_from_peft(model: nn.Module | Backbone, saved: Saved) -> Attached:
    name, options = method_of(saved)
    with unchanged_if_it_fails(model):
        backbone = model if isinstance(model, Backbone) else open_in_place(model)
        layers = sites_of(saved, backbone)
        sites = ",".join(dict.fromkeys(site for _, site in layers))
        attached = attach_by_name(backbone, name, {**options, "sites": sites}, seed=0)
        fill(attached, saved, layers)
    return attached


def _read_tensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the texts and the tensors of a safetensors file; PetlFileError where it is none."""
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
            return about, {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # no dictionary
    except (OSError, SafetensorError) as error:
        raise PetlFileError(f"cannot read {file}: {error}") from error


def _name_and_options(file: Path, about: dict[str, str]) -> tuple[str, dict[str, Any]]:
    try:
        return about["petl"], dict(json.loads(about["options"]))
    except (
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:  # the last: nested too deep to be options
        raise PetlFileError(f"{file} does not say which module it holds, with which options") from error
