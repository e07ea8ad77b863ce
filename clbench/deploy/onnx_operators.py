"""Say in ONNX what torch's exporter has no words for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Translation = Callable[..., Any]


def translations() -> dict[Callable[..., Any], Translation]:
    """Return what writes an operation of torch's in ONNX, for those that the exporter cannot write."""
    from onnxscript import opset18 as op

    def sort(values: Any, *, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        """Write a stable sort: of equal values ONNX's TopK has the one with the lower index first."""
        place: Any = op.Constant(value_ints=[dim])
        length = op.Gather(op.Shape(values), place, axis=0)
        return op.TopK(values, length, axis=dim, largest=descending, sorted=True)

    return {torch.ops.aten.sort.stable: sort}
