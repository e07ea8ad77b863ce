"""Keep the batch-norm means of old tasks true: cross-convolution batch normalisation.

S. Jie, Z.-H. Deng, Z. Li, "Alleviating Representational Shift for Continual Fine-tuning" (ConFiT), CVPR
Workshops 2022, arXiv 2204.10535. The means that a batch norm learnt in a task no longer fit once later tasks
have changed the convolution before it. So the means of what goes into the convolution are kept, too, and
those of what comes out of it are computed from them with the kernel as it is now.

Differs from the published code: the means by place are part of the state, and test images do not move them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from clbench.learning.cross_convolution.closed_form import mean_after
from clbench.learning.cross_convolution.pairs import PaddingError, Pair, find_pairs

MOMENTUM = 0.1  # of a tracker whose batch norm has none


class Tracker(nn.Module):
    """The running mean of a convolution's input, by the rule of the batch norm after it."""

    mean_SRI: Tensor

    def __init__(self, pair: Pair) -> None:
        """Start at zero."""
        super().__init__()
        self.pair = (pair,)  # in a tuple, so that the layers are no part of this module
        weight = pair.convolution.weight
        shape = (*pair.convolution.stride, pair.convolution.in_channels)
        self.register_buffer("mean_SRI", torch.zeros(shape, device=weight.device))
        pair.convolution.register_forward_pre_hook(self._follow)

    @torch.no_grad()
    def _follow(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        batch_norm = self.pair[0].batch_norm
        if not batch_norm.training:
            return
        rows, columns, _channels = self.mean_SRI.shape
        for row in range(rows):
            for column in range(columns):
                pixels = inputs[0][:, :, row::rows, column::columns]
                if pixels.numel():
                    mean = pixels.mean((0, 2, 3), dtype=self.mean_SRI.dtype)
                    self.mean_SRI[row, column].lerp_(mean, batch_norm.momentum or MOMENTUM)

    @torch.no_grad()
    def recover(self) -> None:
        """Set the batch norm's mean to what the kept means give with the present kernel."""
        convolution, batch_norm, size = self.pair[0].convolution, self.pair[0].batch_norm, self.pair[0].size
        cast("Tensor", batch_norm.running_mean).copy_(mean_after(convolution, self.mean_SRI, size))

    def state(self) -> list[Tensor]:
        """Return what is a task's own: the batch norm's mean, variance, scale, shift, and the means here."""
        norm = self.pair[0].batch_norm
        own = (norm.running_mean, norm.running_var, norm.weight, norm.bias, self.mean_SRI)
        return [tensor for tensor in own if tensor is not None]


class CrossConvolution(nn.Module):
    """The trackers of a network, and the batch-norm state of every task begun, one vector each."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        """Track what goes into the convolution of every pair, from now on."""
        super().__init__()
        self.trackers = nn.ModuleList(Tracker(pair) for pair in pairs)
        self.num_tasks = 0

    def begin_task(self) -> None:
        """Make room for one more task."""
        self.register_buffer(f"task_{self.num_tasks}", torch.zeros_like(self._state()))
        self.num_tasks += 1

    def keep(self) -> None:
        """Keep the state of the newest task as it is now."""
        self.get_buffer(f"task_{self.num_tasks - 1}").copy_(self._state())

    @contextmanager
    def of_task(self, task: int) -> Iterator[None]:
        """Put a task's state in place for a while, with its means recovered; the newest task's is there."""
        if task == self.num_tasks - 1:
            yield
            return
        now = self._state()
        try:
            self._put(self.get_buffer(f"task_{task}"))
            for tracker in self.trackers:
                cast("Tracker", tracker).recover()
            yield
        finally:
            self._put(now)

    def _tensors(self) -> list[Tensor]:
        return [tensor for tracker in self.trackers for tensor in cast("Tracker", tracker).state()]

    @torch.no_grad()
    def _state(self) -> Tensor:
        return torch.cat([tensor.flatten().float() for tensor in self._tensors()])

    @torch.no_grad()
    def _put(self, state: Tensor) -> None:
        tensors = self._tensors()
        for tensor, values in zip(tensors, torch.split(state, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))


__all__ = ["CrossConvolution", "PaddingError", "Pair", "Tracker", "find_pairs", "mean_after"]
