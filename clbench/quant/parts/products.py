"""Multiply what a layer or an attention multiplies, with operands given one by one.

Shape letters: B batch, H heads, N and M tokens, E width of a head, G groups of a convolution, n rows,
O outputs, I inputs of a group.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def layer_product(layer: nn.Linear | nn.Conv2d) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what multiplies a weight (O, I) and rows (G, n, I) into the layer's output (n, O)."""
    bias = None if layer.bias is None else layer.bias.detach().float()

    def multiply(weight: Tensor, rows: Tensor) -> Tensor:
        of_groups = weight.view(len(rows), -1, weight.shape[1])
        output = (rows @ of_groups.transpose(1, 2)).transpose(0, 1).flatten(1)
        return output if bias is None else output + bias

    return multiply


def logits(queries: Tensor, keys: Tensor) -> Tensor:
    """Return (B, H, N, M), not scaled."""
    return queries @ keys.transpose(-2, -1)


def mixed(probs: Tensor, values: Tensor) -> Tensor:
    """Return (B, H, N, E)."""
    return probs @ values


def output_rows(layer: nn.Linear | nn.Conv2d, output: Tensor) -> Tensor:
    """Return a layer's output as rows (n, O), in the order in which the input's are."""
    if isinstance(layer, nn.Conv2d):
        output = output.movedim(1, -1)
    return output.reshape(-1, output.shape[-1])
