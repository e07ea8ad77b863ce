"""Compute with a weight that is held in few bits, and with an input that may be rounded first.

The weight is expanded when it is used, one layer at a time, and never kept: a network of such layers takes
the bytes that it is stored in. The weight does not learn; gradients reach the input and the bias.

What a quantiser does to the input is, with ratio r (I,), offset o and a rounding R,

    x' = x / r - o,    y = W' R(x') + bias + correction,

each of them left out where it is None. W' is the weight for x'; ``weight`` is the one for x. A ratio and an
offset per channel are what RepQ-ViT (Z. Li et al., ICCV 2023, arXiv 2212.08254) folds into the LayerNorm
before a layer; they are kept with the layer here, because modules that read the normalised tokens are to see
them as they were.

Shape letters: O outputs, I inputs.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from clbench.backbones.sites import OtherLinear
from clbench.quant.kernels.ways import product
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.rounding import Rounding


class LowBitLinear(OtherLinear):
    """A linear layer (..., I) -> (..., O) with a low-bit weight."""

    ratio: Tensor | None
    offset: Tensor | None
    correction: Tensor | None

    def __init__(
        self,
        like: nn.Linear,
        stored: LowBitWeight,
        *,
        rounding: Rounding | None = None,
        ratio: Tensor | None = None,
        offset: Tensor | None = None,
        correction: Tensor | None = None,
    ) -> None:
        """Take the place of a linear layer, whose bias it shares; ``ratio`` and ``offset`` may be (I,)."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.register_parameter("bias", like.bias)
        self.stored, self.rounding = stored, rounding
        self.register_buffer("ratio", ratio)
        self.register_buffer("offset", offset)
        self.register_buffer("correction", correction)  # (O,)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # torch has a parameter there
        """What the layer multiplies its own input by, (O, I), float32."""
        weight = self.stored.expanded()
        return weight if self.ratio is None else weight / self.ratio

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply what comes in."""
        return multiplied(self, self._rounded(inputs), _plus(self.bias, self.correction))

    def multiply(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply what comes in, rounded, by another weight (O, I) for it."""
        rounded = self._rounded(inputs)
        if self.offset is not None:
            rounded = rounded + self.offset
            beside = self.stored.expanded() @ self.offset.expand(self.in_features)
            bias = _plus(bias, -beside)
        if self.ratio is not None:
            rounded = rounded * self.ratio
        bias = _plus(bias, self.correction)
        return F.linear(rounded.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))

    def _rounded(self, inputs: Tensor) -> Tensor:
        """Return R(x / r - o)."""
        kind = inputs.dtype
        if self.ratio is not None:  # in float32, whatever comes in: channels may lie far from zero
            inputs = inputs / self.ratio
        if self.offset is not None:
            inputs = inputs - self.offset
        return (inputs if self.rounding is None else self.rounding(inputs)).to(kind)


class LowBitConv2d(nn.Conv2d):
    """A convolution with a low-bit weight, whose rows are the weights of one output channel."""

    def __init__(self, like: nn.Conv2d, stored: LowBitWeight, *, rounding: Rounding | None = None) -> None:
        """Take the place of a convolution, whose bias it shares."""
        nn.Module.__init__(self)
        for name in nn.Conv2d.__constants__:
            setattr(self, name, getattr(like, name))
        self._reversed_padding_repeated_twice = like._reversed_padding_repeated_twice
        self.register_parameter("bias", cast("nn.Parameter | None", like.bias))
        self.shape = like.weight.shape
        self.stored, self.rounding = stored, rounding

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # torch has a parameter there
        """The kernels (O, I / groups, rows, columns), float32."""
        return self.stored.expanded().view(self.shape)

    def forward(self, inputs: Tensor) -> Tensor:
        """Convolve what comes in."""
        rounded = inputs if self.rounding is None else self.rounding(inputs)
        return multiplied(self, rounded, self.bias)


LowBitLayer = LowBitLinear | LowBitConv2d


def multiplied(layer: LowBitLayer, inputs: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a layer's low-bit weight to an input; only the packed weight is kept for the backward pass."""
    kind = inputs.device.type
    if not torch.is_autocast_enabled(kind):
        return _multiplied(layer, inputs, bias)
    with torch.autocast(kind, enabled=False):
        return _multiplied(layer, inputs.to(torch.get_autocast_dtype(kind)), bias)


def _multiplied(layer: LowBitLayer, inputs: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.to(inputs.dtype)
    learns = inputs.requires_grad or (bias is not None and bias.requires_grad)
    if not (learns and torch.is_grad_enabled()):
        return _forward(layer, inputs, bias)
    return cast("Tensor", _Multiplied.apply(inputs, bias, layer))


class _Multiplied(torch.autograd.Function):
    """The product with a weight that is expanded once for each pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, bias: Tensor | None, layer: LowBitLayer) -> Tensor:
        ctx.layer, ctx.shape = layer, inputs.shape
        return _forward(layer, inputs, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        layer, gradient = ctx.layer, gradients[0]
        of_input = of_bias = None
        with torch.autocast(gradient.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                of_input = _gradient(layer, ctx.shape, _expanded(layer, gradient), gradient)
            if ctx.needs_input_grad[1]:
                others = [axis for axis in range(gradient.ndim) if axis != _channel_axis(layer, gradient)]
                of_bias = gradient.sum(dim=others)
        return of_input, of_bias, None


def _forward(layer: LowBitLayer, inputs: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply, by kernels where there are some for this weight, and its input is as it comes in.

    A graph that is made of a learner, to be run elsewhere, is to have torch's own operators.
    """
    by_kernels = isinstance(layer, LowBitLinear) and layer.rounding is None and inputs.device.type == "cpu"
    if by_kernels and not torch.compiler.is_compiling():
        in_order = layer.stored.in_order()
        if in_order is not None:
            wide = None if bias is None else bias.float()
            return product(in_order, inputs.float(), wide).to(inputs.dtype)
    return _applied(layer, inputs, _expanded(layer, inputs), bias)


def _expanded(layer: LowBitLayer, like: Tensor) -> Tensor:
    weight = layer.stored.expanded().to(like.dtype)
    return weight if isinstance(layer, LowBitLinear) else weight.view(layer.shape)


def _applied(layer: LowBitLayer, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, LowBitLinear):
        return F.linear(inputs, weight, bias)
    return cast("Tensor", layer._conv_forward(inputs, weight, bias))


def _gradient(layer: LowBitLayer, shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient with respect to the input."""
    if isinstance(layer, LowBitLinear):
        return gradient @ weight
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        anywhere = gradient.new_zeros(shape).requires_grad_()  # the same gradient at every input
        with torch.enable_grad():
            return torch.autograd.grad(_applied(layer, anywhere, weight, None), anywhere, gradient)[0]
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return cast("Tensor", conv2d_input(shape, weight, gradient, *how))  # type: ignore[no-untyped-call]  # torch's


def _channel_axis(layer: LowBitLayer, output: Tensor) -> int:
    return output.ndim - 1 if isinstance(layer, LowBitLinear) else 1


def _plus(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
