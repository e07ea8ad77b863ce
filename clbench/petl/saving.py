"""Write an attached module to a file of its own, without the backbone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from safetensors.torch import save
from torch import nn

from clbench.files import write_bytes
from clbench.petl import Petl, registry
from clbench.quant.packed import packed_state

FORMAT = "clbench petl 1"


def save_module(module: nn.Module, petl: Petl, file: Path) -> None:
    """Write an attached module's tensors, bit-packed where it quantises, and the name and options of it."""
    name = registry.name_of(type(petl))
    options = json.dumps(dataclasses.asdict(petl))
    about = {"format": FORMAT, "petl": name, "options": options}
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in packed_state(module).items()}
    write_bytes(file, save(state, about))
