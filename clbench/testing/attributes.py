"""Walk through what an object holds, to name the tensors that learn in no part, and what a resume loses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

REGISTERED = ("_parameters", "_buffers", "_modules")  # where a module holds its own, by names
DEEPEST = 8
NAMED = 3  # places that a line names
LEAVES = (Tensor, np.ndarray, torch.Generator, bool, int, float, str, type(None))
Leaf = Tensor | np.ndarray[Any, Any] | torch.Generator | bool | int | float | str | None
PASSED_BY = (type, FunctionType, MethodType, ModuleType)


def unregistered(holder: object, registered: Sequence[nn.Module]) -> list[str]:
    """Return the places in ``holder`` of what would learn, a leaf that requires a gradient, in no module."""
    known = {id(parameter) for module in registered for parameter in module.parameters()}
    return [
        place
        for place, leaf in leaves(holder)
        if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.is_leaf and id(leaf) not in known
    ]


def snapshot(holder: object, registered: Sequence[nn.Module]) -> dict[str, str]:
    """Return a digest of each value in ``holder``, but for the tensors that the modules hold."""
    known = {
        tensor.data_ptr()
        for module in registered
        for tensor in (*module.parameters(), *module.buffers(), *module.state_dict().values())
    }
    return {
        place: _digest(leaf)
        for place, leaf in leaves(holder)
        if not (isinstance(leaf, Tensor) and leaf.data_ptr() in known)
    }


def lost(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Name the first places at which something was and is no more, or is another; "" if there are none."""
    places = [place for place, value in before.items() if after.get(place) != value]
    return ", ".join(places[:NAMED]) + (", ..." if len(places) > NAMED else "")


def leaves(holder: object, name: str = "self") -> Iterator[tuple[str, Leaf]]:
    """Yield the tensors, arrays, generators and plain values that an object leads to, each with its place."""
    seen: set[int] = set()
    waiting: list[tuple[str, object, int]] = [(name, holder, 0)]
    while waiting:
        place, value, depth = waiting.pop(0)
        if isinstance(value, LEAVES):
            yield place, value
        elif id(value) not in seen and depth < DEEPEST and not isinstance(value, PASSED_BY):
            seen.add(id(value))
            waiting += [(inside, each, depth + 1) for inside, each in _inside(place, value)]


def _inside(place: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield what one thing holds, a container or an object."""
    if isinstance(value, Mapping):
        yield from ((f"{place}[{key!r}]", each) for key, each in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"{place}[{number}]", each) for number, each in enumerate(value))
    elif isinstance(value, nn.Module):
        for kind in REGISTERED:
            yield from ((f"{place}.{key}", each) for key, each in vars(value)[kind].items())
        yield from ((f"{place}.{key}", each) for key, each in _plain_attributes(value))
    else:
        yield from ((f"{place}.{key}", each) for key, each in getattr(value, "__dict__", {}).items())


def _plain_attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Yield what is assigned to a module and is no parameter, buffer or module; not torch's own."""
    own = vars(nn.Module()).keys()
    yield from ((key, each) for key, each in vars(module).items() if key not in own)


def _digest(leaf: Leaf) -> str:
    if isinstance(leaf, torch.Generator):
        leaf = leaf.get_state()
    if isinstance(leaf, Tensor):
        leaf = leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if isinstance(leaf, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()
    return repr(leaf)
