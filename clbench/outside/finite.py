"""Refuse numbers that are not finite where they come in: one line that names the tensor and its origin.

A sum over finite numbers is finite, or overflows; one over anything else is not. So a tensor is added up
first, which takes no memory, and looked at number by number only if its sum says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.errors import UserError

Numbers = Tensor | NDArray[np.generic]
PIECE = 1 << 26  # bytes of an array that are looked at together


class NotFiniteError(UserError, ArithmeticError):
    """A tensor that holds nan or inf, or a learner whose numbers have become so."""


def is_finite(numbers: Numbers) -> bool:
    """Tell whether there is neither nan nor inf among the numbers; an accelerator is waited for."""
    if isinstance(numbers, Tensor):
        return _is_finite(numbers.detach())
    if numbers.dtype.kind not in "fc" or not numbers.size:
        return True
    numbers = np.atleast_1d(numbers)
    step = max(1, PIECE // max(1, numbers[:1].nbytes))
    pieces = (numbers[start : start + step] for start in range(0, len(numbers), step))
    return all(bool(np.isfinite(piece).all()) for piece in pieces)


def refuse_not_finite(numbers: Numbers, name: str, source: str) -> None:
    """Raise NotFiniteError unless all numbers are finite.

    Args:
        numbers: A tensor or an array; integers always pass.
        name: What the tensor is called there where it comes from.
        source: Where it comes from, such as a file, or what computed it.
    """
    if not is_finite(numbers):
        raise NotFiniteError(f"{source}: {name} holds {described(numbers)}")


def refuse_any_not_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise NotFiniteError for the first tensor of several that is not finite."""
    for name, tensor in tensors.items():
        refuse_not_finite(tensor, name, source)


def described(numbers: Numbers) -> str:
    """Say how many numbers are not finite, and where the first of them stands."""
    values = numbers.detach() if isinstance(numbers, Tensor) else torch.from_numpy(np.array(numbers))
    flat = _at_least_single(values).reshape(-1)
    places = (~flat.isfinite()).nonzero()[:, 0].cpu()
    first = np.unravel_index(int(places[0]), tuple(values.shape)) if values.ndim else ()
    where = f" at {[int(each) for each in first]}" if len(first) else ""
    value = flat[int(places[0])].item()
    return f"nan or inf in {len(places)} of {flat.numel()} places, the first {value}{where}"


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta or not tensor.numel():
        return True
    tensor = _at_least_single(tensor) if tensor.element_size() < 2 else tensor
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _at_least_single(tensor: Tensor) -> Tensor:
    """Return numbers of eight or sixteen bits, which not every operation takes, in single precision."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor
