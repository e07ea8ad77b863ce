"""Multiply by weights of few bits as other libraries do: one function a library, which returns a product.

Each takes a weight (M, K) in float32 and a number of bits, and returns a function of inputs (N, K), a NumPy
array or a tensor, that multiplies by it. A library that is not installed, or has no such weight, raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import low_bit_ggml
import numpy as np
import torch
from torch import Tensor, nn

GROUP = 64  # weights that share a scale
Product = Callable[[Tensor], Any]


class NoSuchWeight(Exception):
    """A number of bits that a library does not multiply with."""


def only(bits: int, *allowed: int) -> None:
    """Raise NoSuchWeight for another number of bits than those allowed."""
    if bits not in allowed:
        raise NoSuchWeight


def torch_int8(weight: Tensor, bits: int) -> Product:
    """Multiply weights in bytes by activations that torch rounds to bytes each time."""
    only(bits, 8)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, torch.qint8)
    return lambda inputs: quantised(inputs)


def torchao_int8(weight: Tensor, bits: int) -> Product:
    """Multiply by weights in bytes, as torchao stores them; torch's operator does it."""
    only(bits, 8)
    scale = weight.abs().amax(dim=1) / 127
    codes = torch.round(weight / scale[:, None]).to(torch.int8)
    return lambda inputs: torch._weight_int8pack_mm(inputs.bfloat16(), codes, scale.bfloat16())


def torchao_int4(weight: Tensor, bits: int) -> Product:
    """Multiply by weights of four bits, as torchao stores them for the CPU; torch's operator does it."""
    only(bits, 4)
    rows, columns = weight.shape
    grouped = weight.view(rows, -1, GROUP)
    low, high = grouped.amin(dim=2), grouped.amax(dim=2)
    scale = (high - low) / 15
    codes = torch.round((grouped - low[..., None]) / scale[..., None]).to(torch.int32).view(rows, columns)
    packed = torch._convert_weight_to_int4pack_for_cpu(codes, 2)
    middle = low + 8 * scale
    pairs = torch.stack((scale, middle), dim=2).transpose(0, 1).contiguous().bfloat16()
    return lambda inputs: torch._weight_int4pack_mm_for_cpu(inputs.bfloat16(), packed, GROUP, pairs)


def onnxruntime(weight: Tensor, bits: int) -> Product:
    """Multiply by onnxruntime's MatMulNBits, activations in bytes."""
    only(bits, 2, 4, 8)
    import onnx
    import onnxruntime as runtime
    from onnx import TensorProto, helper, numpy_helper

    rows, columns = weight.shape
    grouped = weight.view(rows, -1, GROUP)
    low, high = grouped.amin(dim=2), grouped.amax(dim=2)
    scale = (high - low) / (2**bits - 1)
    zero = torch.round(-low / scale).clamp(0, 2**bits - 1)
    codes = torch.round(grouped / scale[..., None] + zero[..., None]).clamp(0, 2**bits - 1).to(torch.uint8)
    blobs, zeros = packed(codes.numpy(), bits), packed(zero.to(torch.uint8).numpy()[:, None], bits)[:, 0]
    tensors = {"codes": blobs, "scale": scale.numpy().ravel(), "zero": zeros.ravel()}
    node = helper.make_node(
        "MatMulNBits",
        ["inputs", *tensors],
        ["outputs"],
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=bits,
        block_size=GROUP,
        accuracy_level=4,
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["N", columns])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["N", rows])],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    assert onnx is not None
    return lambda inputs: session.run(None, {"inputs": inputs.numpy()})


def openvino(weight: Tensor, bits: int) -> Product:
    """Multiply by OpenVINO's compressed weights."""
    only(bits, 4, 8)
    import openvino as ov
    from openvino import opset13 as ops

    rows, columns = weight.shape
    grouped = weight.view(rows, -1, GROUP)
    low, high = grouped.amin(dim=2, keepdim=True), grouped.amax(dim=2, keepdim=True)
    scale = (high - low) / (2**bits - 1)
    zero = torch.round(-low / scale).clamp(0, 2**bits - 1)
    codes = torch.round(grouped / scale + zero).clamp(0, 2**bits - 1).to(torch.uint8).numpy()
    kind = ov.Type.u4 if bits == 4 else ov.Type.u8
    inputs = ops.parameter([-1, columns], np.float32)

    def constant(values: np.ndarray) -> ov.Node:
        if bits == 8:
            return ops.constant(values)
        tensor = ov.Tensor(kind, ov.Shape(list(values.shape)))  # of its own memory
        tensor.data[:] = packed(values.reshape(1, -1), 4).reshape(tensor.data.shape)
        return ops.constant(tensor)

    shifted = ops.subtract(
        ops.convert(constant(codes), np.float16),
        ops.convert(constant(zero.to(torch.uint8).numpy()), np.float16),
    )
    scaled = ops.multiply(shifted, ops.constant(scale.numpy().astype(np.float16)))
    matrix = ops.convert(ops.reshape(scaled, ops.constant(np.array([rows, columns])), False), np.float32)
    model = ov.Model([ops.matmul(inputs, matrix, False, True)], [inputs])
    about = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(model, "CPU", about).create_infer_request()
    return lambda inputs: request.infer([inputs.numpy()], share_inputs=True, share_outputs=True)


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return codes (..., W) in bytes, the first in the least bits."""
    each = 8 // bits
    filled = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % each)])
    parts = filled.reshape(*filled.shape[:-1], -1, each).astype(np.uint16) << (np.arange(each) * bits)
    return parts.sum(axis=-1).astype(np.uint8)


def of_ggml(kind: str) -> Callable[[Tensor, int], Product]:
    """Multiply as ggml does, by weights of one of its kinds."""

    def make(weight: Tensor, bits: int) -> Product:
        only(bits, low_bit_ggml.KINDS[kind][1])
        return low_bit_ggml.product_of(weight, kind)

    return make


PEERS: dict[str, Callable[[Tensor, int], Product]] = {
    "torch int8": torch_int8,
    "torchao int8": torchao_int8,
    "torchao int4": torchao_int4,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    **{f"ggml {kind}": of_ggml(kind) for kind in low_bit_ggml.KINDS},
}
