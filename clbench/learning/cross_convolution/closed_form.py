"""Compute the mean of a convolution's output from that of its input, in closed form.

It is the mean of the convolution of an image which equals the input's mean everywhere. At stride S the taps
of the kernel meet pixels of S different rows (row mod S), and so for columns, so there is a mean for each of
these places. It is exact where the mean of a pixel depends on nothing but its place.

Shape letters: O channels out, I channels in, G groups, K x L the kernel, S and R the strides down and across.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mean_after(convolution: nn.Conv2d, mean_SRI: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the mean (O,) of the convolution of an image of that size which is ``mean_SRI`` everywhere."""
    row_K, rate_K = _taps(convolution, size, direction=0)
    column_L, rate_L = _taps(convolution, size, direction=1)
    taps_KLI = mean_SRI[row_K[:, None], column_L] * (rate_K[:, None] * rate_L)[:, :, None]
    weight_GOIKL = convolution.weight.reshape(convolution.groups, -1, *convolution.weight.shape[1:])
    taps_GOIKL = taps_KLI.permute(2, 0, 1).reshape(convolution.groups, 1, *weight_GOIKL.shape[2:])
    mean_O = (weight_GOIKL * taps_GOIKL).sum((2, 3, 4)).flatten()
    return mean_O if convolution.bias is None else mean_O + convolution.bias


def output_size(convolution: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of what comes out of a convolution that pads both sides alike."""
    return _num_outputs(convolution, size, direction=0), _num_outputs(convolution, size, direction=1)


def _taps(convolution: nn.Conv2d, size: tuple[int, int], direction: int) -> tuple[Tensor, Tensor]:
    """Return of each tap the place (mod the stride) that it meets, and its share of pixels, not zeros."""
    stride = convolution.stride[direction]
    taps = torch.arange(convolution.kernel_size[direction], device=convolution.weight.device)
    first = taps * convolution.dilation[direction] - int(convolution.padding[direction])
    outputs = torch.arange(_num_outputs(convolution, size, direction), device=taps.device)
    pixel = first[:, None] + stride * outputs
    return first % stride, ((pixel >= 0) & (pixel < size[direction])).float().mean(1)


def _num_outputs(convolution: nn.Conv2d, size: tuple[int, int], direction: int) -> int:
    extent = convolution.dilation[direction] * (convolution.kernel_size[direction] - 1)
    padded = size[direction] + 2 * int(convolution.padding[direction])
    return (padded - extent - 1) // convolution.stride[direction] + 1
