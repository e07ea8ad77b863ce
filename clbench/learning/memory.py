"""Keep some of the samples met so far, for replay, in tensors allocated once.

J. S. Vitter, "Random Sampling with a Reservoir", ACM Transactions on Mathematical Software 1985
(algorithm R).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from clbench.data.stored import Stored
from clbench.kinds import HasKinds
from clbench.learning.balancing import balanced

LARGE = 2**62  # a draw below it, modulo n, is uniform to within n / 2**62


class Memory(HasKinds):
    """At most ``capacity`` samples, in places 0 to ``len(memory)`` - 1; a module, so that its state is saved.

    Generators are on the CPU, and so are indices; the samples are where the module is moved to.
    """

    kinds: ClassVar[dict[str, str]] = {"": "exemplars"}

    items: Tensor
    labels: Tensor
    tasks: Tensor
    rows: Tensor

    def __init__(self, capacity: int) -> None:
        """Start empty; there is no room before ``reserve``."""
        super().__init__()
        self.capacity = capacity
        self.count = 0  # places filled
        self.num_seen = 0  # samples offered so far
        for name in ("labels", "tasks", "rows"):
            self.register_buffer(name, torch.zeros(capacity, dtype=torch.int64))
        self._names = ["items", "labels", "tasks", "rows"]  # of the buffers; extras follow

    def reserve(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.uint8,
        **extras: tuple[tuple[int, ...], torch.dtype],
    ) -> None:
        """Allocate room for samples of this shape, and for extras such as ``logits=((10,), torch.float32)``.

        The room is on the device that the memory was moved to. Called again it does nothing: a memory does
        not change what it holds (but see ``widen``).
        """
        if "items" in self._buffers:
            return
        for name, (each_shape, each_dtype) in {"items": (shape, dtype), **extras}.items():
            self.register_buffer(name, self.labels.new_zeros(self.capacity, *each_shape, dtype=each_dtype))
        self._names.extend(extras)

    def widen(self, name: str, width: int) -> None:
        """Make the last dimension of an extra ``width`` long, with 0 in what is new; never shorter."""
        old = self.get_buffer(name)
        self.register_buffer(name, nn.functional.pad(old, (0, max(0, width - old.shape[-1]))))

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.count

    def num_filled(self) -> dict[str, int]:
        """Return the number of samples for every tensor: there is room for more."""
        return dict.fromkeys(self._names if "items" in self._buffers else self._names[1:], self.count)

    @property
    def is_empty(self) -> bool:
        """Whether there is no sample to draw."""
        return self.count == 0

    def reservoir(self, offered: Stored, generator: torch.Generator) -> None:
        """Offer samples so that each of all offered so far is in the memory with the same probability."""
        number = len(offered.labels)
        # The n-th sample ever offered takes a place drawn from 0..n-1, if there is such a place.
        nth = torch.arange(self.num_seen + 1, self.num_seen + number + 1)
        drawn = torch.randint(LARGE, (number,), generator=generator) % nth
        drawn[: self.capacity - self.count] = torch.arange(self.count, self.capacity)[:number]
        accepted = (drawn < self.capacity).nonzero().flatten()
        self._write(dict(zip(drawn[accepted].tolist(), accepted.tolist(), strict=True)), offered)  # last wins

    def balance(self, offered: Stored, generator: torch.Generator) -> None:
        """Offer samples so that the classes have equal shares; a random one of the largest class gives way.

        Within a class whoever comes first stays, so offer a whole task in random order.
        """
        places: dict[int, list[int]] = {}
        for place, label in enumerate(self.labels[: self.count].tolist()):
            places.setdefault(label, []).append(place)
        labels = offered.labels.tolist()
        draws = torch.randint(LARGE, (len(labels),), generator=generator).tolist()
        self._write(balanced(places, self.capacity, labels, draws), offered)

    def append(self, offered: Stored) -> None:
        """Store samples behind those there are, in this order; there must be room."""
        number = len(offered.labels)
        if self.count + number > self.capacity:
            raise ValueError(f"no room for {number} more in a memory of {self.count}/{self.capacity}")
        self._write({self.count + index: index for index in range(number)}, offered)

    def keep(self, index: Tensor) -> None:
        """Keep the samples of these places, in this order, and forget the others."""
        for name in self._names:
            buffer = self.get_buffer(name)
            buffer[: len(index)] = buffer[index.to(buffer.device)]
        self.count = len(index)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return so many different places, drawn uniformly (all, in random order, if there are fewer)."""
        return torch.randperm(self.count, generator=generator)[:count]

    def at(self, index: Tensor) -> Stored:
        """Return a copy of the samples of these places."""
        index = index.to(self.items.device)
        items, labels, tasks, rows, *extras = [self.get_buffer(x).index_select(0, index) for x in self._names]
        return Stored(items, labels, tasks, rows, dict(zip(self._names[4:], extras, strict=True)))

    def get_extra_state(self) -> Tensor:
        """Return the two counters, for ``state_dict``; as numbers they need not be fetched from a GPU."""
        return torch.tensor([self.count, self.num_seen])

    def set_extra_state(self, state: Any) -> None:
        """Set the two counters, for ``load_state_dict``."""
        self.count, self.num_seen = state.tolist()

    @torch.no_grad()
    def _write(self, chosen: dict[int, int], offered: Stored) -> None:
        """Put into each chosen place the offered sample of this index; no place twice."""
        if offered.items.dtype != self.items.dtype:
            raise TypeError(f"this memory holds {self.items.dtype}, not {offered.items.dtype}")
        if offered.extras.keys() != set(self._names[4:]):
            raise KeyError(f"extras {sorted(offered.extras)} are offered, {sorted(self._names[4:])} are kept")
        self.num_seen += len(offered.labels)
        if not chosen:
            return
        place, index = torch.tensor(list(chosen)), torch.tensor(list(chosen.values()))
        given = {**vars(offered), **offered.extras}
        for name in self._names:
            values, buffer = given[name], self.get_buffer(name)
            new = values.index_select(0, index.to(values.device)).to(buffer)
            buffer.index_copy_(0, place.to(buffer.device), new)
        self.count = max(self.count, 1 + max(chosen))
