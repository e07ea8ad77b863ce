"""Hold a weight in the order in which kernels read it, and multiply by it."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.quant.kernels.library import can, library

IN_A_BYTE = 8
NO_MEMORY = 1  # what a product says


class Way(IntEnum):
    """How a product is computed."""

    LOOK_UP = 0  # a table of each four activations, picked from by a plane's bits
    IN_BYTES = 1  # codes by activations in eight bits
    EXPANDED = 2  # in float32, by torch


class KernelLayer:
    """A weight (M, K) of b bits in an instruction set's order; all of it is copied."""

    def __init__(self, kernels: str, planes: Tensor, scale: Tensor, zero: Tensor, columns: int) -> None:
        """Take planes (b, M, ceil(K / 8)), and scales and zero points (M, G), all float16 or float32."""
        self.kernels, self.columns = kernels, columns
        self.bits, self.rows = planes.shape[0], planes.shape[1]
        self.described = f"{self.rows} x {columns}, {self.bits} bits, {scale.shape[1]} groups"
        width = -(-columns // scale.shape[1])
        self.chunk = 32 if width <= 32 else 64  # columns that are summed as integers, of one group
        self.num_chunks = scale.shape[1] * -(-width // self.chunk)
        self.number = -1  # by which an operator knows it (torch_operator.py)
        self.ways_known: dict[int, Way] = {}  # by bucket of tokens (ways.py)
        loaded = library()
        assert loaded is not None, "kernels were chosen, so they are there"
        self._library = loaded
        held = [tensor.contiguous() for tensor in (planes, scale, zero)]
        pointers = [tensor.data_ptr() for tensor in held]
        is_half = scale.dtype == torch.float16
        self._handle = loaded.lb_create(
            kernels.encode(), *pointers, is_half, self.rows, columns, self.bits, scale.shape[1]
        )
        if not self._handle:
            raise MemoryError(f"no room for a weight of {self.rows} x {columns}")

    def __del__(self) -> None:
        """Give the memory back."""
        if getattr(self, "_handle", None):
            self._library.lb_free(self._handle)

    @property
    def num_bytes(self) -> int:
        """Bytes that codes, scales and zero points take, what is filled up included."""
        return int(self._library.lb_bytes(self._handle))

    def ways(self) -> list[Way]:
        """Return the ways in which this weight can be multiplied, without that by torch."""
        return [way for way in (Way.LOOK_UP, Way.IN_BYTES) if can(self.kernels, way, self.bits)]

    def planes(self) -> Tensor:
        """Return the planes (b, M, ceil(K / 8)), with their values also where a graph is traced."""
        planes = np.zeros((self.bits, self.rows, -(-self.columns // IN_A_BYTE)), np.uint8)
        self._library.lb_planes(self._handle, planes.ctypes.data)
        return torch.from_numpy(planes)

    def expanded(self) -> Tensor:
        """Return the weight (M, K) in float32."""
        weight = torch.empty(self.rows, self.columns)
        self._library.lb_expand(self._handle, weight.data_ptr())
        return weight

    def product(self, inputs: Tensor, bias: Tensor | None, way: Way) -> Tensor:
        """Return x w^T + bias, (..., M), of inputs x (..., K) and a bias (M,), both float32 on the CPU."""
        if way == Way.EXPANDED:
            return F.linear(inputs, self.expanded(), bias)
        result = inputs.new_empty(*inputs.shape[:-1], self.rows)
        self._multiply(inputs, bias, way, result)
        return result

    def integer_parts(self, inputs: Tensor, way: Way) -> tuple[Tensor, Tensor]:
        """Return what the codes are multiplied with, uint8 (C, N, W), and the sums, int32 (N, C, M).

        C chunks of 32 or 64 columns, N tokens; W bytes a chunk: 16 entries a quad, or a byte an activation.
        """
        tokens = inputs.numel() // self.columns
        of_column = 4 if way == Way.LOOK_UP else 1
        values = torch.empty(self.num_chunks, tokens, self.chunk * of_column, dtype=torch.uint8)
        sums = torch.empty(tokens, self.num_chunks, self.rows, dtype=torch.int32)
        self._multiply(inputs, None, way, inputs.new_empty(tokens, self.rows), values, sums)
        return values, sums

    def _multiply(
        self,
        inputs: Tensor,
        bias: Tensor | None,
        way: Way,
        result: Tensor,
        values: Tensor | None = None,
        sums: Tensor | None = None,
    ) -> None:
        if inputs.shape[-1] != self.columns or inputs.dtype != torch.float32:
            told = f"{tuple(inputs.shape)}, {inputs.dtype}"
            raise ValueError(f"inputs are to be (..., {self.columns}) in float32, not {told}")
        inputs = inputs.contiguous()
        bias = None if bias is None else bias.contiguous()
        tokens = inputs.numel() // self.columns
        failed = self._library.lb_multiply(
            self._handle,
            way,
            inputs.data_ptr(),
            None if bias is None else bias.data_ptr(),
            result.data_ptr(),
            tokens,
            torch.get_num_threads(),
            None if values is None else values.data_ptr(),
            None if sums is None else sums.data_ptr(),
        )
        if failed == NO_MEMORY:
            raise MemoryError(f"no room to multiply {tokens} tokens")
        if failed:
            raise ValueError(f"{self.kernels} has no way {way.name} for {self.bits} bits")
