"""Divide a network into modules: runs of neighbouring blocks, with the stem before and the head behind them.

Z. Ni et al., "Deep Incubation", ICCV 2023, arXiv 2212.04129: a network is described by how many blocks each
of its K modules has, such as (3, 3, 3, 3) for the whole, (1, 1, 1, 1) for a small one of the same shapes
inside, and (1, 3, 1, 1) for the small one with its second module in full. Any network whose blocks form a
chain can be divided where the blocks that a small one leaves out keep the shape of what goes in: of a ResNet,
between its stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from clbench.backbones.backbone import Backbone
from clbench.backbones.prefix import entering
from clbench.errors import UserError
from clbench.pretrain.parts.network import Network

NUM_MODULES = 4  # of a network that has no stages


class DivisionError(UserError, ValueError):
    """Depths that a network cannot be divided by."""


@dataclass(frozen=True)
class Division:
    """The blocks of each module."""

    depths: tuple[int, ...]  # of the whole network

    def __len__(self) -> int:
        """Return the number of modules, K."""
        return len(self.depths)

    @property
    def blocks(self) -> list[range]:
        """The indices of each module's blocks."""
        ends = accumulate(self.depths, initial=0)
        return [range(start, end) for start, end in pairwise(ends)]

    def module_of(self, block: int) -> int:
        """Return the module that a block is in."""
        return next(module for module, blocks in enumerate(self.blocks) if block in blocks)

    def small(self, depth: int) -> tuple[int, ...]:
        """Return the depths of a network with ``depth`` blocks a module, or as many as there are."""
        return tuple(min(depth, own) for own in self.depths)

    def hybrid(self, module: int, depth: int) -> tuple[int, ...]:
        """Return the depths of that network with one module in full."""
        small = self.small(depth)
        return (*small[:module], self.depths[module], *small[module + 1 :])


def division_of(backbone: Backbone, depths: str, modules: int, small_depth: int) -> Division:
    """Return how a backbone is divided by depths such as ``3,3,3,3``.

    Empty: evenly into so many modules, 4 for 0; or by its stages, where it has some.

    DivisionError in one line where that cannot be.
    """
    division = Division(_read(depths) if depths else _default(backbone, modules))
    count, total = len(backbone.blocks), sum(division.depths)
    if total != count or min(division.depths) < 1:
        raise DivisionError(
            f"pretrain.divided_depths: {','.join(map(str, division.depths))} are {total} blocks, of at least"
            f" one a module, and this backbone has {count}"
        )
    for blocks in division.blocks:
        for index in blocks[small_depth:]:
            if not backbone.blocks[index].keeps_shape:
                raise DivisionError(
                    f"pretrain.divided_depths: block {index} changes the shape of what goes in, so it must be"
                    f" among the first {small_depth} of its module; such are"
                    f" {','.join(map(str, _default(backbone, 0)))}"
                )
    return division


def _read(depths: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in depths.split(","))
    except ValueError as error:
        raise DivisionError(
            f"pretrain.divided_depths: {depths!r} are no numbers of blocks; write them as 2,2,2,2"
        ) from error


def _default(backbone: Backbone, modules: int) -> tuple[int, ...]:
    """Return depths by the stages of a network that has some; else of so many modules."""
    count = len(backbone.blocks)
    starts = sorted({0, *(block.index for block in backbone.blocks if not block.keeps_shape)})
    if len(starts) > 1 and modules in (0, len(starts)):
        return tuple(end - start for start, end in pairwise([*starts, count]))
    number = modules or min(NUM_MODULES, count)
    if number > count:
        raise DivisionError(f"pretrain.modules: {number} is more than the {count} blocks of this backbone")
    return tuple((place + 1) * count // number - place * count // number for place in range(number))


def cut_to(network: Network, division: Division, depths: Sequence[int]) -> None:
    """Take blocks out of a network, in place: each module keeps its first ones, by ``depths``."""
    backbone = network.backbone
    kept = {index for blocks, depth in zip(division.blocks, depths, strict=True) for index in blocks[:depth]}
    for block in backbone.blocks:
        if block.index not in kept:
            block[""].layer = None
            for name in block.sites:
                del backbone.sites[f"block[{block.index}]" + (f".{name}" if name else "")]
    backbone.blocks = [block for block in backbone.blocks if block.index in kept]


def names_of_modules(network: Network, division: Division) -> list[list[str]]:
    """Return the names of the tensors of each module, as many as the network has."""
    backbone, own = network.backbone, network.named()
    module_of = dict.fromkeys(own, len(division) - 1)  # what is behind all blocks stays in the last
    of_block = {
        id(each): division.module_of(block.index)
        for block in backbone.blocks
        for each in block[""].state_dict(keep_vars=True).values()
    }
    in_front = _in_front(backbone)
    layers = {name.rpartition(".")[0] for name, each in own.items() if id(each) in in_front and "." in name}
    for name, each in own.items():
        if id(each) in of_block:
            module_of[name] = of_block[id(each)]
        elif (
            id(each) in in_front or name.rpartition(".")[0] in layers
        ):  # a batch norm's means have no gradient
            module_of[name] = 0
    return [[name for name in own if module_of[name] == module] for module in range(len(division))]


def _in_front(backbone: Backbone) -> set[int]:
    """Return the ids of the parameters outside blocks that what enters the first block depends on."""
    inside = {id(each) for block in backbone.blocks for each in block[""].parameters()}
    outside = [each for each in backbone.model.parameters() if id(each) not in inside]
    asked = [each.requires_grad for each in outside]
    size = backbone.preprocessing.image_size
    was_training = backbone.training
    backbone.set_training(False)
    images = torch.zeros(1, 3, size, size, device=backbone.device)
    for each in outside:
        each.requires_grad_(True)
    with torch.enable_grad():
        value = entering(backbone, 0, images)
        grads = torch.autograd.grad(value.sum(), outside, allow_unused=True)
    for each, before in zip(outside, asked, strict=True):
        each.requires_grad_(before)
    backbone.set_training(was_training)
    return {id(each) for each, grad in zip(outside, grads, strict=True) if grad is not None}
