"""Name the values of tensors by a digest, which is made anew where they may have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

WORDS = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
}  # by bytes an element; those of more are in words of 8


class StateDigest:
    """The digest of one module's state, which is asked for with every batch and rarely another one."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._seen: tuple[list[tuple[int, int]], list[int]] | None = None
        self._text = ""

    def of(self, about: object, state: Mapping[str, Tensor]) -> str:
        """Return the SHA-256 of what the state is about and of all its values.

        They count as the same while every tensor is where it was, has the version that it had, and the same
        sum: what is written through ``.data`` gets no version.
        """
        seen = [(tensor.data_ptr(), tensor._version) for tensor in state.values()], _sums(state.values())
        if seen != self._seen:
            total = hashlib.sha256(repr(about).encode())
            for name, tensor in state.items():
                total.update(name.encode())
                total.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
            self._seen, self._text = seen, total.hexdigest()
        return self._text


def _sums(tensors: Iterable[Tensor]) -> list[int]:
    """Return the sum of each tensor's bits, in words: exact, and quick beside a digest."""
    words = [each.detach().reshape(-1).view(WORDS.get(each.element_size(), torch.int64)) for each in tensors]
    sums = [each.sum() for each in words]
    return torch.stack(sums).tolist() if sums else []  # an accelerator is waited for once
