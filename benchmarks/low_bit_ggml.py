"""Multiply by weights as ggml stores them, through the libraries that llama-cpp-python brings.

Nothing of llama.cpp's own is used: a graph of one product is computed, with the weight in the buffer in which
ggml may bring it into another order for this processor, as llama.cpp does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, Structure, c_bool, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

KINDS = {  # by ggml's names: its numbers, and about how many bits a weight has
    "Q1_0": (41, 1),
    "TQ1_0": (34, 1),
    "Q2_0": (42, 2),
    "TQ2_0": (35, 2),
    "Q2_K": (10, 2),
    "Q3_K": (11, 3),
    "Q4_0": (2, 4),
    "Q4_K": (12, 4),
    "Q8_0": (8, 8),
}
IN_ANOTHER_ORDER = ("Q2_K", "Q4_0", "Q4_K")  # that ggml brings into one for AVX2 or more
FLOAT32, ROOM = 0, 1024 * 1024  # bytes for the descriptions of a few tensors, not for what they hold


class Room(Structure):
    """Of ggml: how much memory it may take for descriptions."""

    _fields_ = (("size", c_size_t), ("memory", c_void_p), ("no_alloc", c_bool))


FUNCTIONS = {  # what they return, and what they take
    "ggml_init": (c_void_p, [Room]),
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_mul_mat": (c_void_p, [c_void_p] * 3),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p] * 2),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_row_size": (c_size_t, [c_int, c_int64]),
    "ggml_quantize_chunk": (
        c_size_t,
        [c_int, POINTER(c_float), c_void_p, c_int64, c_int64, c_int64, c_void_p],
    ),
    "ggml_blck_size": (c_int64, [c_int]),
    "ggml_backend_alloc_ctx_tensors": (c_void_p, [c_void_p] * 2),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p] * 2),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_graph_compute": (c_int, [c_void_p] * 2),
}
OF_THE_PROCESSOR = {
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "_Z35ggml_backend_cpu_repack_buffer_typev": (c_void_p, []),
}


@cache
def libraries() -> tuple[ctypes.CDLL, ctypes.CDLL, c_void_p]:
    """Return ggml, its part for the processor, and that part's state."""
    found = find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("llama-cpp-python is not installed")
    folder = Path(found.origin).parent / "lib"
    base = ctypes.CDLL(str(folder / "libggml-base.so"), ctypes.RTLD_GLOBAL)
    processor = ctypes.CDLL(str(folder / "libggml-cpu.so"))
    for library, functions in ((base, FUNCTIONS), (processor, OF_THE_PROCESSOR)):
        for name, (returned, taken) in functions.items():
            function = getattr(library, name)
            function.restype, function.argtypes = returned, taken
    return base, processor, c_void_p(processor.ggml_backend_cpu_init())


def product_of(weight: Tensor, kind: str) -> Callable[[Tensor], Tensor]:
    """Return the product of inputs (N, K) with a weight (M, K) that is stored in one of KINDS."""
    base, processor, backend = libraries()
    number, (rows, columns) = KINDS[kind][0], weight.shape
    block = base.ggml_blck_size(number)
    if columns % block:
        raise ValueError(f"{kind} has blocks of {block} weights, which do not divide {columns}")
    context = base.ggml_init(Room(ROOM, None, True))
    stored = base.ggml_new_tensor_2d(context, number, columns, rows)
    if kind in IN_ANOTHER_ORDER:
        buffers = processor._Z35ggml_backend_cpu_repack_buffer_typev()
        base.ggml_backend_alloc_ctx_tensors_from_buft(context, buffers)
    else:
        base.ggml_backend_alloc_ctx_tensors(context, backend)
    packed = (ctypes.c_char * (base.ggml_row_size(number, columns) * rows))()
    values = ctypes.cast(weight.contiguous().data_ptr(), POINTER(c_float))
    base.ggml_quantize_chunk(number, values, packed, 0, rows, columns, None)
    base.ggml_backend_tensor_set(stored, packed, 0, len(packed))
    graphs: dict[int, tuple[int, int, int]] = {}

    def graph_for(tokens: int) -> tuple[int, int, int]:
        if tokens not in graphs:
            own = base.ggml_init(Room(ROOM, None, True))
            inputs = base.ggml_new_tensor_2d(own, FLOAT32, columns, tokens)
            result = base.ggml_mul_mat(own, stored, inputs)
            graph = base.ggml_new_graph(own)
            base.ggml_build_forward_expand(graph, result)
            base.ggml_backend_alloc_ctx_tensors(own, backend)
            graphs[tokens] = inputs, result, graph
        return graphs[tokens]

    def multiply(inputs: Tensor) -> Tensor:
        own, result, graph = graph_for(len(inputs))
        processor.ggml_backend_cpu_set_n_threads(backend, torch.get_num_threads())
        base.ggml_backend_tensor_set(own, inputs.data_ptr(), 0, inputs.numel() * 4)
        if base.ggml_backend_graph_compute(backend, graph):
            raise RuntimeError("ggml could not compute it")
        out = torch.empty(len(inputs), rows)
        base.ggml_backend_tensor_get(result, out.data_ptr(), 0, out.numel() * 4)
        return out

    return multiply
