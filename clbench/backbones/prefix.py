"""Compute a backbone in two parts: the blocks before one, and that block with all that follows.

The parts together give what the whole gives. Blocks form a chain in every family, so the second part is the
network with its first blocks taken out and the stored value put in the place of the first one left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from torch import Tensor, nn

from clbench.backbones.backbone import Backbone


class _Reached(Exception):
    """The value that enters the block has been seen; nothing after it is wanted."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def entering(backbone: Backbone, index: int, images: Tensor) -> Tensor:
    """Return what enters block ``index`` for a batch of images: tokens (B, N, D), or a map."""
    return backbone.shared(lambda part: _entering(backbone, index, part), images)


def leaving(backbone: Backbone, index: int, value: Tensor) -> Tensor:
    """Return the features (B, width) that block ``index`` and what follows make of what enters it."""
    return backbone.shared(lambda part: _leaving(backbone, index, part), value)


def _entering(backbone: Backbone, index: int, images: Tensor) -> Tensor:
    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> NoReturn:
        raise _Reached(inputs[0])

    handle = backbone.blocks[index][""].register_forward_pre_hook(stop)
    try:
        backbone(images)
    except _Reached as reached:
        return reached.value
    finally:
        handle.remove()
    raise AssertionError("the block was never reached")


def _leaving(backbone: Backbone, index: int, value: Tensor) -> Tensor:
    def put(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (value, *inputs[1:])

    size = backbone.preprocessing.image_size
    handle = backbone.blocks[index][""].register_forward_pre_hook(put)
    try:
        with _taken_out(backbone, index):
            features: Tensor = backbone(value.new_zeros(len(value), 3, size, size))
    finally:
        handle.remove()
    return features


@contextmanager
def _taken_out(backbone: Backbone, index: int) -> Iterator[None]:
    """Let the blocks before ``index`` pass their input on for a while."""
    sites = [block[""] for block in backbone.blocks[:index]]
    layers = [site.layer for site in sites]
    for site in sites:
        site.layer = None
    try:
        yield
    finally:
        for site, layer in zip(sites, layers, strict=True):
            site.layer = layer
