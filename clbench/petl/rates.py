"""Sort what learns by the learning rates that modules state for their tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import nn


class StatesRates(ABC):
    """A module that wants another learning rate for some of its parameters."""

    @abstractmethod
    def rate_ratios(self) -> dict[nn.Parameter, float]:
        """Return what multiplies the learning rate of each parameter."""


def by_rate_ratio(parts: Iterable[nn.Module]) -> dict[float, list[nn.Parameter]]:
    """Return all that requires a gradient, in its order, by what its learning rate is multiplied by.

    The ratio 1 comes first; it is left out where everything has another.
    """
    held = list(parts)
    modules = (module for part in held for module in part.modules() if isinstance(module, StatesRates))
    ratios = {parameter: ratio for module in modules for parameter, ratio in module.rate_ratios().items()}
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for part in held:
        for parameter in part.parameters():
            if parameter.requires_grad:
                groups.setdefault(ratios.get(parameter, 1.0), []).append(parameter)
    return {ratio: group for ratio, group in groups.items() if group or len(groups) == 1}
