"""Attach a module to any model: by its name and options, or from the file that it was written to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from clbench import petl
from clbench.backbones.backbone import Backbone
from clbench.backbones.creation import open_in_place
from clbench.errors import UserError
from clbench.finite import refuse_any_not_finite
from clbench.options import build
from clbench.petl.attached import Attached
from clbench.petl.saving import FORMAT
from clbench.quant.packed import unpack
from clbench.seeds import Seeds


class PetlFileError(UserError, ValueError):
    """A file that holds no module, or one that does not fit the model."""


def attach_by_name(model: nn.Module | Backbone, name: str, options: dict[str, Any], seed: int) -> Attached:
    """Build the named module from its options and attach it."""
    recipe = build(petl.get(name), "petl", options)
    backbone = model if isinstance(model, Backbone) else open_in_place(model)
    return recipe.attach(backbone, Seeds(seed).generator("petl"))


def load_attached(model: nn.Module | Backbone, file: Path) -> Attached:
    """Attach what a file holds; its quantised weights are for use, not for more training."""
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # no dictionary
    except (OSError, SafetensorError) as error:
        raise PetlFileError(f"cannot read {file}: {error}") from error
    if about.get("format") != FORMAT:
        raise PetlFileError(f"{file} is no file that a module was saved to")
    try:
        options = json.loads(about["options"])
    except (KeyError, ValueError, RecursionError) as error:  # the last: nested too deep to be options
        raise PetlFileError(f"{file} does not say what the options of its module are") from error
    refuse_any_not_finite(state, f"{file} ({about['petl']})")
    attached = attach_by_name(model, about["petl"], options, seed=0)
    try:
        unpack(attached, state)
    except (RuntimeError, KeyError, ValueError) as error:
        attached.detach()
        reason = str(error).strip().splitlines()[-1].strip()
        raise PetlFileError(f"{file} holds {about['petl']} for another backbone: {reason}") from error
    return attached
