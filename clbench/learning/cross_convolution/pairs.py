"""Find which batch norm follows which convolution, in any network, by watching images pass once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from clbench.errors import UserError
from clbench.learning.cross_convolution.closed_form import output_size


class PaddingError(UserError, ValueError):
    """A convolution after which the mean cannot be computed."""


@dataclass(frozen=True)
class Pair:
    """A convolution and the batch norm that follows it."""

    convolution: nn.Conv2d
    batch_norm: nn.BatchNorm2d
    size: tuple[int, int]  # rows and columns of the convolution's input


def find_pairs(network: nn.Module, images: Tensor) -> list[Pair]:
    """Return the pairs in the order in which ``images`` pass them, whatever the network's class.

    The network is in evaluation mode, so that nothing in it changes. A batch norm whose input is not the
    output of a convolution is in no pair. PaddingError where the convolution of a pair pads with anything but
    as many zeros on both sides.
    """
    outputs: list[tuple[nn.Conv2d, tuple[int, int], Tensor]] = []  # all kept: no two can be at one address
    pairs: list[Pair] = []

    def note(convolution: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows, columns = inputs[0].shape[-2:]
        outputs.append((cast("nn.Conv2d", convolution), (rows, columns), output))

    def match(batch_norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for convolution, size, output in outputs:
            if output is inputs[0]:
                _check_padding(convolution, size, output)
                pairs.append(Pair(convolution, cast("nn.BatchNorm2d", batch_norm), size))

    modules = list(network.modules())
    handles = [m.register_forward_hook(note) for m in modules if isinstance(m, nn.Conv2d)]
    handles += [m.register_forward_pre_hook(match) for m in modules if isinstance(m, nn.BatchNorm2d)]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return pairs


def _check_padding(convolution: nn.Conv2d, size: tuple[int, int], output: Tensor) -> None:
    is_plain = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    if not is_plain or output_size(convolution, size) != tuple(output.shape[-2:]):
        raise PaddingError(
            "cross-convolution batch norm needs convolutions that pad both sides with as many zeros;"
            f" one of {convolution.in_channels} channels into {convolution.out_channels} does not"
        )
