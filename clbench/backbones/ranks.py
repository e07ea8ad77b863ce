"""Share the images of a batch out over the processes of one run, called its ranks.

Each rank computes a backbone on its part of the batch. The features of all parts are put together on every
rank, and what follows them (heads, losses over pairs, memories, prototypes, covariances) is computed by every
rank on the whole batch, so that it is equal everywhere without another word. On the way back the gradient of
the features is equal everywhere, too: each rank takes its part of it, and what the parameters inside the
backbone get is added up. Numbers are those of one process but for the order of additions.

Shared out is only what an image's features do not depend on others for. Prompts chosen image by image, side
networks, batch norms that learn, dropout, and a backbone that something looks into are computed whole by
every rank: slower, and right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clbench.errors import UserError

LONGEST_WAIT = timedelta(days=1)  # for another rank, which may be at work alone; one that died is heard of
Compute = Callable[[Tensor], Tensor]


class LostRankError(UserError, RuntimeError):
    """Another process of the run has ended before its time."""


class ApartError(UserError, RuntimeError):
    """The processes of a run do not hold the same."""


class Ranks:
    """The processes of a run as one of them sees them; all make the same calls in the same order."""

    def __init__(self, index: int, number: int) -> None:
        """Take this process's place among all; the group of torch.distributed has been made."""
        self.index, self.number = index, number
        self.num_bytes = 0  # that this rank has sent: features, and gradients
        self._is_alone = self._is_whole = False
        self._drawing: set[object] = set()  # what was seen to draw random numbers

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        """Stay one: a copied backbone is shared out among the same processes."""
        return self

    @property
    def is_first(self) -> bool:
        """Whether this is the process that keeps the record and talks to the user."""
        return self.index == 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Compute without the others for a while: they do something else."""
        before, self._is_alone = self._is_alone, True
        try:
            yield
        finally:
            self._is_alone = before

    def whole(self) -> AbstractContextManager[None]:
        """Return a context in which each rank computes every batch whole."""
        return self._computing(is_whole=True)

    def in_parts(self) -> AbstractContextManager[None]:
        """Return a context in which batches are shared out, whatever is around it but ``alone``."""
        return self._computing(is_whole=False)

    @contextmanager
    def _computing(self, *, is_whole: bool) -> Iterator[None]:
        before, self._is_whole = self._is_whole, is_whole
        try:
            yield
        finally:
            self._is_whole = before

    def shared(self, modules: Mapping[str, nn.Module], compute: Compute, images: Tensor) -> Tensor:
        """Return what ``compute`` makes of a batch (B, ...) with modules, by name: each rank a part of it.

        Every row of the output is one image's. A batch is computed whole where a hook or a batch norm sees
        its values, and where random numbers are drawn, of which the parts would get others.
        """
        kinds = tuple((name, module.training) for name, module in modules.items())
        is_small = len(images) < self.number
        is_whole = self._is_alone or self._is_whole or is_small or images.requires_grad
        if is_whole or kinds in self._drawing:
            return compute(images)
        if any(_is_looked_into(module) for each in modules.values() for module in each.modules()):
            return compute(images)
        inside = nn.ModuleList(modules.values())
        before = _generators(images.device)
        with self.alone():  # what is called inside is shared out already
            output = self._of_part(inside, compute, images[self._part(len(images), self.index)])
        if not _are_equal(before, _generators(images.device)):
            _set_generators(images.device, before)
            self._drawing.add(kinds)
            return compute(images)
        gathered: Tensor = _Gathered.apply(output, self, len(images))
        return gathered

    def agree(self, what: str, value: object) -> None:
        """Raise ApartError unless the value of ``what`` is equal on all ranks."""
        found = self._exchanged(value)
        others = [index for index, each in enumerate(found) if each != found[0]]
        if others:
            raise ApartError(
                f"the {self.number} processes of this run do not agree on {what}: "
                f"rank {others[0]} has {_short(found[others[0]])}, rank 0 {_short(found[0])}"
            )

    def are_equal(self, value: object) -> bool:
        """Return whether the value is equal on all ranks."""
        found = self._exchanged(value)
        return all(each == found[0] for each in found)

    def together(self, make: Callable[[], Any]) -> Any:
        """Return what ``make`` gives; where it tells the user of a mistake on any rank, raise that on all."""
        made, told, error = None, "", None
        try:
            made = make()
        except UserError as raised:
            told, error = str(raised), raised
        found = self._exchanged(told)
        if any(found):
            rank = next(index for index, each in enumerate(found) if each)
            raise error if error and all(found) else ApartError(f"rank {rank}: {found[rank]}")
        return made

    def from_first(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        box = [value]
        self._called(distributed.broadcast_object_list, box, src=0)
        return box[0]

    def added_up(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums over all ranks of tensors of one type, sent as one."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._called(distributed.all_reduce, flat)
        self.num_bytes += flat.nbytes
        pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]

    def gathered(self, part: Tensor, size: int) -> Tensor:
        """Return the parts of all ranks, one after another, ``size`` rows in all."""
        longest = -(-size // self.number)  # what is sent must be of one length
        mine = part.new_zeros(longest, *part.shape[1:])
        mine[: len(part)] = part
        parts = [torch.empty_like(mine) for _ in range(self.number)]
        self._called(distributed.all_gather, parts, mine)
        self.num_bytes += mine.nbytes
        ends = [self._part(size, index) for index in range(self.number)]
        return torch.cat([each[: end.stop - end.start] for each, end in zip(parts, ends, strict=True)])

    def _part(self, size: int, index: int) -> slice:
        """Return which of so many rows are a rank's: as even as can be, the longer parts first."""
        short, num_longer = divmod(size, self.number)
        start = index * short + min(index, num_longer)
        return slice(start, start + short + (index < num_longer))

    def _of_part(self, inside: nn.ModuleList, compute: Compute, part: Tensor) -> Tensor:
        """Compute a part so that what its parameters get on the way back is added up over the ranks."""
        learning = {name: each for name, each in inside.named_parameters() if each.requires_grad}
        if not (learning and torch.is_grad_enabled()):
            return compute(part)
        stand_ins = _Replicated.apply(self, *learning.values())
        held = _Holding(inside, compute)
        swapped = {f"inside.{name}": each for name, each in zip(learning, stand_ins, strict=True)}
        output: Tensor = torch.func.functional_call(held, swapped, (part,))
        return output

    def _exchanged(self, value: object) -> list[Any]:
        found: list[Any] = [None] * self.number
        self._called(distributed.all_gather_object, found, value)
        return found

    def _called(self, collective: Callable[..., object], *arguments: Any, **options: Any) -> None:
        try:
            collective(*arguments, **options)
        except RuntimeError as error:
            raise LostRankError(
                f"this run cannot go on: one of its {self.number} processes has ended"
            ) from error


class _Holding(nn.Module):
    """A computation with the modules whose parameters it uses, so that others can stand in for these."""

    def __init__(self, inside: nn.ModuleList, compute: Compute) -> None:
        super().__init__()
        self.train(inside.training)
        self.inside, self.compute = inside, compute

    def forward(self, images: Tensor) -> Tensor:
        return self.compute(images)


class _Gathered(torch.autograd.Function):
    """Puts the parts of all ranks together; on the way back each takes its own."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks, size: int) -> Tensor:
        ctx.rows = ranks._part(size, ranks.index)
        return ranks.gathered(part, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.rows], None, None


class _Replicated(torch.autograd.Function):
    """Gives each parameter on as it is; on the way back adds up over the ranks what it gets."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        ctx.set_materialize_grads(False)  # what is not used gets none, as in one process
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        sums: list[Tensor | None] = [None] * len(gradients)
        for dtype in sorted({each.dtype for each in gradients if each is not None}, key=str):
            places = [
                place for place, each in enumerate(gradients) if each is not None and each.dtype == dtype
            ]
            added = ctx.ranks.added_up(
                [each for each in gradients if each is not None and each.dtype == dtype]
            )
            for place, value in zip(places, added, strict=True):
                sums[place] = value
        return None, *sums


def _is_looked_into(module: nn.Module) -> bool:
    """Return whether a hook sees the values of a batch, or a batch norm learns from them."""
    is_hooked = bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
    return is_hooked or (isinstance(module, _BatchNorm) and module.training)


def _generators(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_generators(device: torch.device, states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def _are_equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
