"""Hold the modules that a plain timm model carries, so that what is done to the model is done to them.

The model gets one more part, ``model.petl``, a list of its attached modules. So ``to``, ``half``, ``train``,
``copy.deepcopy``, ``state_dict``, ``parameters`` and what builds on these, such as timm's moving average,
reach them. A backbone inside of clbench carries nothing: there a strategy holds the modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, cast

from torch import Tensor, nn

NAME = "petl"  # of the part of the model


class Installing(Protocol):
    """What a model asks of the modules that it carries."""

    def installed(self) -> dict[str, Tensor]:
        """Return the tensors, by their names in the module, that are in the model's own places now."""


class Carried(nn.ModuleList):
    """The modules attached to a plain model, in the order in which they came.

    A tensor of the model's own that a module trains is in the model's place for it while the module is on,
    and would be in a state twice: there it stands under the model's name alone.
    """

    def __init__(self, backbone: nn.Module) -> None:
        """Start without modules; ``backbone`` is what gives the model its sites."""
        super().__init__()
        self._backbone = (backbone,)  # in a tuple, so that it is no part of its own part

    @property
    def backbone(self) -> nn.Module:
        """What gives the model its sites."""
        return self._backbone[0]

    def drop(self, module: nn.Module) -> None:
        """Take a module out."""
        rest = [each for each in self if each is not module]
        self._modules.clear()
        self.extend(rest)

    def state_dict(self, *args: Any, **keywords: Any) -> Any:
        """Return the modules' tensors, without those that are in the model's own places."""
        state = super().state_dict(*args, **keywords)
        for key, _ in self._installed(keywords.get("prefix", "")):
            del state[key]
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Let the modules find what the model has loaded into its own places."""
        state_dict.update(self._installed(prefix))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _installed(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        for number, module in enumerate(self):
            for key, tensor in cast("Installing", module).installed().items():
                yield f"{prefix}{number}.{key}", tensor


def carried_by(model: nn.Module) -> Carried | None:
    """Return what a model carries; None where it is no plain model, or was never attached to."""
    part = model._modules.get(NAME)
    return part if isinstance(part, Carried) else None
