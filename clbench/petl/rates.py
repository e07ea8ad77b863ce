"""Sort what learns by the learning rates that modules state for their tensors."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from clbench.petl.attached import Attached


def by_rate_ratio(parts: Iterable[nn.Module]) -> dict[float, list[nn.Parameter]]:
    """Return all that requires a gradient, in its order, by what its learning rate is multiplied by.

    The ratio 1 comes first; it is left out where everything has another.
    """
    held = list(parts)
    modules = (module for part in held for module in part.modules() if isinstance(module, Attached))
    ratios = {parameter: ratio for module in modules for parameter, ratio in module.rate_ratios().items()}
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for part in held:
        for parameter in part.parameters():
            if parameter.requires_grad:
                groups.setdefault(ratios.get(parameter, 1.0), []).append(parameter)
    return {ratio: group for ratio, group in groups.items() if group or len(groups) == 1}
