"""Count the floating-point operations of a call by watching what it dispatches.

A multiply-add counts as two. Matrix products, convolutions and attention are counted, fused or not, forward
and backward; element-wise work is not, as in the figures that papers give. The backward pass of fused
attention computes the logits again, which counts too.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]
Formula = Callable[..., int]


def count_flops(function: Callable[[], object]) -> int:
    """Return the FLOPs of calling ``function`` once; it is called, with all its effects."""
    counter = Counter()
    with counter:
        function()
    return counter.total


class Counter(TorchDispatchMode):
    """Counts what is dispatched inside it by torch's formulas.

    torch's own mode also tells which module each operation is part of, which takes four times as long.
    """

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch declares no types for it
        self.total = 0
        self._formulas = formulas()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Carry out an operation, and add what it takes, or what those take that it consists of."""
        named = kwargs or {}
        formula = self._formulas.get(func._overloadpacket)
        if formula is None and _is_composite(func):  # as it arrives where there are no gradients
            with self:
                return func.decompose(*args, **named)
        result = func(*args, **named)
        if formula is not None:
            self.total += formula(*args, **named, out_val=result)
        return result


@cache
def formulas() -> dict[Any, Formula]:
    """Return torch's formulas by operation, with that of low-bit products and what older versions lack."""
    importlib.import_module("clbench.quant.kernels.torch_operator")  # it registers its own
    lacking = {  # of the CPU's fused attention
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return dict(FlopCounterMode(display=False, custom_mapping=lacking).flop_registry)


@cache
def _is_composite(operation: Any) -> bool:
    """Tell whether an operation is made of others."""
    implicit = torch._C.DispatchKey.CompositeImplicitAutograd
    return bool(operation.has_kernel_for_dispatch_key(implicit))


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """Count q k^T and its product with v; shapes (..., N, E), (..., M, E) and (..., M, V)."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(_: Shape, query: Shape, key: Shape, value: Shape, *__: object, **___: object) -> int:
    """Count q k^T once more, and the gradients of q and k, of the probabilities and v."""
    return 2 * math.prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])
