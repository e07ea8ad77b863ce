"""Define a rounding: values in, and out the nearest ones that few bits can say.

A subclass is made from its bits and its tensors by name, which are buffers: all that it is can be saved and
made again. To the gradient a rounding is the identity, except where it cuts values off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from clbench.backbones.sites import HALF


class Rounding(nn.Module, ABC):
    """What stands for a value: one of 2^bits codes, and what each of them means."""

    is_fixed: ClassVar[bool] = True  # whether that is the same for all values that come

    def __init__(self, bits: int, **tensors: Tensor) -> None:
        """Hold the tensors, at least one, whose shapes broadcast to the values'."""
        if not tensors:
            raise TypeError(f"{type(self).__name__}: a rounding is saved as its tensors, and has none")
        super().__init__()
        self.bits = bits
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @property
    def num_levels(self) -> int:
        """Number of codes, L."""
        return int(2**self.bits)

    @property
    def num_codes(self) -> int:
        """Number of codes: L, or one more where zero has a code of its own beside the levels."""
        return self.num_levels

    @abstractmethod
    def codes(self, values: Tensor) -> Tensor:
        """Return the code of each value, int64 below ``num_codes``."""

    @abstractmethod
    def decoded(self, codes: Tensor) -> Tensor:
        """Return what codes stand for, float32."""

    def reaches(self, values: Tensor) -> Tensor | None:
        """Tell of which values the gradient is kept: those that are not cut off; None: of all."""
        return None

    def rounded(self, values: Tensor) -> Tensor:
        """Return what the codes of values stand for: ``decoded(codes(values))``, or the same quicker."""
        return self.decoded(self.codes(values))

    def forward(self, values: Tensor) -> Tensor:
        """Return the rounded values, in the type that they came in; half precision is rounded in float32."""
        if torch.is_grad_enabled() and values.requires_grad:
            return cast("Tensor", _StraightThrough.apply(values, self))
        return self._in_single_precision(values)

    def _in_single_precision(self, values: Tensor) -> Tensor:
        wide = values.float() if values.dtype in HALF else values
        with torch.autocast(values.device.type, enabled=False):
            return self.rounded(wide).to(values.dtype)


class _StraightThrough(torch.autograd.Function):
    """Rounded values, with the gradient of the identity where they are reached."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rounding: Rounding) -> Tensor:
        kept = rounding.reaches(values)
        if kept is not None:
            ctx.save_for_backward(kept)
        return rounding._in_single_precision(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return (gradients[0] * ctx.saved_tensors[0] if ctx.saved_tensors else gradients[0]), None
