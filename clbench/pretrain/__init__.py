"""Define what a way of pre-training is: a recipe that makes a file which a run then takes.

What comes out are weights (``backbone.weights``) or a plug-in learnt once a backbone (``compress.plugin``).
A method's file holds a dataclass of options with one method, ``begin``, that returns a course of steps.
Everything else (images, checkpoints, going on after a stop, the file and how it was made) is the same for all
and done by ``pretrain``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from clbench.registry import Registry

if TYPE_CHECKING:
    from clbench.pretrain.course import Course
    from clbench.pretrain.materials import Materials


@dataclass(frozen=True)
class PretrainingMethod(ABC):
    """A method's options, and the course that they make of backbone and images."""

    # defaults of other recipes than the first, by the recipe's name, for a method with an option ``recipe``
    recipes: ClassVar[dict[str, dict[str, bool | int | float | str]]] = {}
    backbone_preset: ClassVar[
        dict[str, bool | int | float | str]
    ] = {}  # options of the backbone, where none are asked for
    only_how: ClassVar[tuple[str, ...]] = ()  # options that change nothing of what comes out

    @abstractmethod
    def begin(self, materials: Materials) -> Course:
        """Return the course at its beginning; a UserError says in one line why there can be none."""


def with_recipe(method: type[PretrainingMethod], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the defaults of the recipe that they name, where they name one."""
    return {**method.recipes.get(str(options.get("recipe", "")), {}), **options}


registry: Registry[PretrainingMethod] = Registry("pretrain", __name__, PretrainingMethod)
register, get, names = registry.register, registry.get, registry.names

__all__ = ["PretrainingMethod", "get", "names", "register", "with_recipe"]
