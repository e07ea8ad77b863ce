"""The product as an operator of torch's, so that what watches operators sees it: FLOPs are counted so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils.flop_counter import register_flop_formula

from clbench.quant.kernels.kernel_layer import KernelLayer, Way

WAYS = tuple(Way)
_numbers = count()
_layers: WeakValueDictionary[int, KernelLayer] = (
    WeakValueDictionary()
)  # an operator takes numbers, not objects

_library: Any = torch.library.Library("clbench", "DEF")  # type: ignore[no-untyped-call]  # torch's
_library.define("low_bit_product(Tensor inputs, Tensor? bias, int layer, int rows, int way) -> Tensor")


def product(layer: KernelLayer, inputs: Tensor, bias: Tensor | None, way: Way) -> Tensor:
    """Return x w^T + bias, (..., M), of inputs x (..., K) and a bias (M,), both float32 on the CPU.

    Where nobody watches, it is no operator: that takes longer than a small product.
    """
    if not is_in_torch_dispatch_mode():
        return layer.product(inputs, bias, way)
    if layer.number < 0:
        layer.number = next(_numbers)
        _layers[layer.number] = layer
    result: Tensor = _product(inputs, bias, layer.number, layer.rows, way)
    return result


def _computed(inputs: Tensor, bias: Tensor | None, layer: int, rows: int, way: int) -> Tensor:
    return _layers[layer].product(inputs, bias, WAYS[way])


def _shaped(inputs: Tensor, bias: Tensor | None, layer: int, rows: int, way: int) -> Tensor:
    """Return a tensor like the result, where only shapes are asked for."""
    return inputs.new_empty(*inputs.shape[:-1], rows)


_library.impl("low_bit_product", _computed, "CPU")
_library.impl("low_bit_product", _shaped, "Meta")
_product = torch.ops.clbench.low_bit_product.default


@register_flop_formula(torch.ops.clbench.low_bit_product)
def flops(
    inputs_shape: Sequence[int],
    bias_shape: Sequence[int] | None,
    layer: int,
    rows: int,
    way: int,
    **_: object,
) -> int:
    """Count those of the product with a weight in float32."""
    return 2 * math.prod(inputs_shape) * rows
