"""Undo what was done to a network, if it was not done to the end."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def unchanged_if_it_fails(root: nn.Module) -> Iterator[None]:
    """Give a module and all inside it their parts, lists, hooks and modes back when an error comes out.

    Tensors get the objects and the ``requires_grad`` back that they had, not their values.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in root.parameters()]
    modules = [(module, dict(vars(module)), _contents(module)) for module in root.modules()]
    try:
        yield
    except BaseException:
        for module, attributes, contents in modules:
            vars(module).clear()
            vars(module).update(attributes)
            for held, before in contents:  # the same objects, since handles of hooks refer to them
                _refill(held, before)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        raise


def _contents(module: nn.Module) -> list[tuple[Any, Any]]:
    """Return each collection that a module holds, with a copy of it."""
    return [(held, copy.copy(held)) for held in vars(module).values() if isinstance(held, (dict, list, set))]


def _refill(held: Any, before: Any) -> None:
    held.clear()
    if isinstance(held, list):
        held.extend(before)
    else:
        held.update(before)
