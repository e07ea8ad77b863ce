"""Say what kind of thing each tensor is that a strategy keeps between tasks, so that bytes add up by kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from torch import Tensor, nn

KINDS = ("modules", "head", "prototypes", "covariances", "exemplars", "importance", "other")


class HasKinds(nn.Module):
    """A part that knows what its tensors are; those of parts inside it are theirs to say."""

    kinds: ClassVar[dict[str, str]] = {}  # of tensors by name; "" for all others
    to_learn: ClassVar[tuple[str, ...]] = ()  # tensors that learning on asks for, and predicting does not

    def kind_of(self, name: str) -> str:
        """Return the kind of the tensor with this name inside the part."""
        return self.kinds.get(name.partition(".")[0], self.kinds.get("", "other"))

    def num_filled(self) -> dict[str, int]:
        """Return how many rows of a tensor hold something, by its name; of all others every row does."""
        return {}


def filled(part: nn.Module) -> dict[str, Tensor]:
    """Return the rows that hold something, of those tensors of ``state_dict()`` that have others, too."""
    return {
        f"{path}.{name}" if path else name: inside.get_buffer(name).detach()[:number]
        for path, inside in part.named_modules()
        if isinstance(inside, HasKinds)
        for name, number in inside.num_filled().items()
    }


def only_to_learn(part: nn.Module) -> set[str]:
    """Return the names of the tensors of ``part.state_dict()`` without which it predicts the same."""
    state = part.state_dict()
    declared = {
        f"{path}.{name}" if path else name
        for path, inside in part.named_modules()
        if isinstance(inside, HasKinds)
        for name in inside.to_learn
    }
    kinds = kinds_of(part, state)
    return {name for name in state if name in declared or kinds[name] in ("exemplars", "importance")}


def fills(parts: Iterable[nn.Module]) -> list[int]:
    """Return how many rows hold something in each memory among the parts."""
    inside = [module for part in parts for module in part.modules() if isinstance(module, HasKinds)]
    return [max(numbers.values()) for module in inside if (numbers := module.num_filled())]


def kinds_of(part: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Return the kinds of tensors of ``part.state_dict()``: what the innermost part that knows says."""
    modules = dict(part.named_modules())
    return {name: _kind_of(modules, name) for name in names}


def _kind_of(modules: Mapping[str, nn.Module], name: str) -> str:
    kind, path = "other", ""
    pieces = name.split(".")
    for number, piece in enumerate(pieces):
        inside = modules.get(path)
        if isinstance(inside, HasKinds):
            kind = inside.kind_of(".".join(pieces[number:]))
        path = f"{path}.{piece}" if path else piece
    return kind
