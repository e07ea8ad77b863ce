"""Save a run's whole state in one file, and find the newest file that is whole.

A checkpoint is a safetensors file: tensors, and the rest of the state as JSON in its header. Its name ends in
the first sixteen hexadecimal digits of its own SHA-256, so a truncated or altered file contradicts its name
and is passed over. It is written under a temporary name, flushed and renamed; the one before it is kept until
the next is there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clbench.files import make_folder, write_bytes
from clbench.outside.reading import RecordError, read_bytes, read_json, told_in_one_line
from clbench.runs.optimizer_state import optimizer_tensors, restore_optimizer
from clbench.strategies import Strategy

NAME = re.compile(r"(\d{6,12})-([0-9a-f]{16})\.safetensors")
KEPT = 2  # the newest and the one before


@dataclass(frozen=True)
class Position:
    """What is to be done next: step ``step`` of epoch ``epoch`` of task ``task``, all 0-based."""

    task: int = 0
    epoch: int = 0
    step: int = 0

    @property
    def is_inside_task(self) -> bool:
        """Whether the task has been begun."""
        return (self.epoch, self.step) != (0, 0)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two steps."""

    position: Position
    tensors: dict[str, Tensor]
    info: dict[str, Any]  # JSON: costs so far


@dataclass(frozen=True)
class Ended:
    """What only the end of a run asks for of a task that has ended: no checkpoint has to hold all of them."""

    costs: list[dict[str, Any]]  # what was held and had been spent then: one entry, or none
    looks: list[list[int]]  # rows of the log of looks since the task before it


def save_ended(folder: Path, task: int, ended: Ended) -> None:
    """Write what is to be known of a task (0-based) that has ended."""
    make_folder(folder / "ended")
    write_bytes(folder / "ended" / f"task-{task:02d}.json", json.dumps(vars(ended)).encode())


def load_ended(folder: Path, num_tasks: int) -> list[Ended]:
    """Return what was written of so many tasks."""
    files = [folder / "ended" / f"task-{task:02d}.json" for task in range(num_tasks)]
    with told_in_one_line(folder / "ended"):
        return [Ended(**read_json(file)) for file in files]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into the folder and remove those older than the one before it.

    What was held when a task last ended is kept, too: a learner that is stopped inside the next one is that.
    """
    make_folder(folder)
    files = _files(folder)
    name, data = named_bytes(checkpoint, _number(files[-1]) + 1 if files else 0)
    write_bytes(folder / name, data)
    old = files[: len(files) + 1 - KEPT]
    if checkpoint.position.is_inside_task:
        between = next((file for file in reversed(files) if _is_between_tasks(file)), None)
        old = [file for file in old if file != between]
    for file in old:
        if file.is_file():  # whatever else lies there under such a name is not ours
            file.unlink()
    return folder / name


def named_bytes(checkpoint: Checkpoint, number: int) -> tuple[str, bytes]:
    """Return the name and the bytes of a checkpoint's file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    state = json.dumps({"position": vars(checkpoint.position), "info": checkpoint.info})
    data = save(without_aliases(tensors), metadata={"state": state})
    return f"{number:06d}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors", data


def load_checkpoint(folder: Path, *, is_between_tasks: bool = False) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or the newest between tasks; None if there is none."""
    for path in reversed(_files(folder)):
        try:
            checkpoint = _read(path)
        except (RecordError, SafetensorError, ValueError, KeyError, TypeError):
            continue
        if not (is_between_tasks and checkpoint.position.is_inside_task):
            return checkpoint
    return None


def _read(path: Path) -> Checkpoint:
    """Return what a file holds; one of several errors where it is not what was written under that name."""
    data = read_bytes(path)
    if hashlib.sha256(data).hexdigest()[:16] != path.stem.rpartition("-")[2]:
        raise ValueError("it contradicts its name")
    state = _state_in(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return Checkpoint(Position(**state["position"]), load(data), state["info"])


def _state_in(header: bytes) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(json.loads(header)["__metadata__"]["state"])
    return state


def _is_between_tasks(path: Path) -> bool:
    """Tell from its header alone whether a file holds what was held when a task had ended."""
    try:
        with open(path, "rb") as file:
            state = _state_in(file.read(int.from_bytes(file.read(8), "little")))
        return not Position(**state["position"]).is_inside_task
    except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError):
        return False


def capture(
    position: Position, strategy: Strategy, optimizer: torch.optim.Optimizer | None, info: dict[str, Any]
) -> Checkpoint:
    """Return the state of a strategy and of its optimiser.

    The tensors are named ``<part>/<tensor>`` and ``optimizer/<number>.<name>``.
    """
    tensors = {
        f"{kind}/{name}": tensor
        for kind, part in strategy.parts().items()
        for name, tensor in part.state_dict().items()
    }
    if optimizer is not None:
        tensors |= optimizer_tensors(optimizer)
    return Checkpoint(position, tensors, info)


def restore(checkpoint: Checkpoint, strategy: Strategy, optimizer: torch.optim.Optimizer | None) -> None:
    """Load the values into a strategy of the same shapes, and into its freshly made optimiser, if any."""
    strategy.take_back({kind: under(f"{kind}/", checkpoint.tensors) for kind in strategy.parts()})
    if optimizer is not None:
        restore_optimizer(optimizer, checkpoint.tensors)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _files(folder: Path) -> list[Path]:
    """Return the checkpoint files, oldest first."""
    return sorted((path for path in folder.glob("*.safetensors") if NAME.fullmatch(path.name)), key=_number)


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])


def without_aliases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory: safetensors refuses to write them."""
    seen: set[int] = set()
    unique = {}
    for name, tensor in tensors.items():
        key = tensor.untyped_storage().data_ptr()
        unique[name] = tensor.clone() if key in seen else tensor
        seen.add(key)
    return unique
