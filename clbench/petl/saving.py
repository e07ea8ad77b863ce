"""Write an attached module to a file of its own, without the backbone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from safetensors.torch import save
from torch import nn

from clbench.files import write_bytes
from clbench.options import complete
from clbench.petl import Petl, registry
from clbench.quant.packed import packed_state

FORMAT = "clbench petl 1"
LENGTH = 8  # bytes of the number that says how long a safetensors header is; the header fills so many, too


def save_module(module: nn.Module, petl: Petl, file: Path) -> None:
    """Write an attached module's tensors, bit-packed where it quantises, and the name and options of it."""
    name = registry.name_of(type(petl))
    options = complete(type(petl), "petl", dataclasses.asdict(petl))
    about = {"format": FORMAT, "petl": name, "options": json.dumps(options)}
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in packed_state(module).items()}
    write_bytes(file, with_metadata(save(state), about))


def with_metadata(data: bytes, about: dict[str, str]) -> bytes:
    """Put texts into the header of a safetensors file, in their order.

    The library writes them in another order each time, so that files of equal content would differ.
    """
    end = LENGTH + int.from_bytes(data[:LENGTH], "little")
    header = {"__metadata__": about, **json.loads(data[LENGTH:end])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH)
    return len(text).to_bytes(LENGTH, "little") + text + data[end:]
