"""Count the floating-point operations of a call by watching what it dispatches.

A multiply-add counts as two. Matrix products, convolutions and attention are counted, fused or not, forward
and backward; element-wise work is not, as in the figures that papers give. The backward pass of fused
attention computes the logits again, which counts too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]


def count_flops(function: Callable[[], object]) -> int:
    """Return the FLOPs of calling ``function`` once; it is called, with all its effects."""
    with counter() as counting:
        function()
    return int(counting.get_total_flops())


def counter() -> FlopCounterMode:
    """Return a context that counts what is dispatched in it; that takes some 0.1 ms an operation."""
    return FlopCounterMode(
        display=False,
        custom_mapping={  # older versions of torch do not count the CPU's fused attention
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        },
    )


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """Count q k^T and its product with v; shapes (..., N, E), (..., M, E) and (..., M, V)."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(_: Shape, query: Shape, key: Shape, value: Shape, *__: object, **___: object) -> int:
    """Count q k^T once more, and the gradients of q and k, of the probabilities and v."""
    return 2 * math.prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])
