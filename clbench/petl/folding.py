"""Fold the modules of a learner into its backbone, where each prediction computes with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import nn

from clbench.backbones.backbone import Backbone
from clbench.petl.attached import Attached


def fold(backbone: Backbone, ask: Callable[[], object]) -> list[Attached]:
    """Merge what merges and is on whenever the backbone is used; ``ask`` predicts once. Return what did.

    A module that a strategy switches off for one of several looks at an image stays beside the layers.
    """
    modules = [cast("Attached", module) for module in backbone.attached]
    merged = [module for module in _switched(backbone, modules, True, ask) if _merge(module)]
    # one that the strategy itself switches on, merged or not, would count twice
    still_off = _switched(backbone, merged, False, ask)
    for module in reversed(merged):
        if module not in still_off:
            _unmerge_down_to(module, merged)
    return merged


def switched_for(backbone: Backbone, ask: Callable[[], object]) -> list[Attached]:
    """Return the modules with weights in the backbone's own places that one prediction switches on or off."""
    own = [module for module in cast("list[Attached]", backbone.attached) if module.replaced]
    always = [module for on in (True, False) for module in _switched(backbone, own, on, ask)]
    return [module for module in own if module not in always]


def _unmerge_down_to(module: Attached, merged: list[Attached]) -> None:
    """Take back a merge and those after it, which alone can be."""
    while module in merged:
        merged.pop().unmerge()


def _switched(
    backbone: Backbone, modules: Sequence[Attached], on: bool, ask: Callable[[], object]
) -> list[Attached]:
    """Return which modules are on (or off) each time the backbone computes for one prediction."""
    seen: list[list[bool]] = []

    def look(_: nn.Module, __: object) -> None:
        seen.append([module.enabled for module in modules])

    hook = backbone.register_forward_pre_hook(look)
    try:
        ask()
    finally:
        hook.remove()
    return [module for place, module in enumerate(modules) if seen and all(row[place] is on for row in seen)]


def _merge(module: Attached) -> bool:
    """Merge a module, if it can be; tell whether it has been."""
    try:
        module.merge()
    except TypeError:
        return False
    return not module.enabled
