"""Choose a strategy's defaults: those of its recipes that hold on a stream, with a backbone and a module.

A recipe's key is words joined by ``+``, and it holds where all of them do: the name of a stream or of a
module, ``online`` (a single pass), ``convnet`` or ``transformer`` (the backbone), or ``any``. Where two keys
give an option, the later of this order counts: few words before many, then ``any``, backbones, modules,
streams, ``online``. ``petl`` among the options names the module to take where the user names none.

``Strategy.recipes`` are of the method's authors; ``strategy.recipe=NAME`` puts one of ``named_recipes``,
whose numbers are another code base's, on top. What the user gives counts before both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from clbench.options import SpecError
from clbench.registry import did_you_mean

if TYPE_CHECKING:
    from clbench.strategies import Strategy

AUTHORS = "authors"
ORIGINS = {  # whose the numbers are
    AUTHORS: "the method's authors' own code",
    "pilot": "LAMDA-PILOT, a toolbox of many methods",
}
BACKBONES = ("convnet", "transformer")


@dataclass(frozen=True)
class Setting:
    """What a recipe may depend on."""

    stream: str
    backbone: str
    is_online: bool = False
    module: str = ""  # "": not known yet

    def holds(self, word: str) -> bool:
        """Tell whether one word of a key holds here."""
        if word in BACKBONES:
            return word == self.kind_of_backbone
        return word in ("any", self.stream, self.module) or (word == "online" and self.is_online)

    @cached_property
    def kind_of_backbone(self) -> str:
        """Whether the backbone attends to tokens or convolves; found out only where a recipe asks."""
        return kind_of_backbone(self.backbone)


def with_recipes(strategy: type[Strategy], recipe: str, setting: Setting) -> dict[str, Any]:
    """Return the options that hold in a setting, of the authors' recipes and then of the one named.

    SpecError if there is none of that name.
    """
    allowed = [AUTHORS, *strategy.named_recipes]
    if recipe not in allowed:
        raise SpecError(
            f"strategy.recipe: {recipe!r} is not allowed{did_you_mean(recipe, allowed)}"
            f" (allowed: {', '.join(allowed)})"
        )
    named = strategy.named_recipes.get(recipe, {})
    return {**_holding(strategy.recipes, setting), **_holding(named, setting)}


def without_module(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's options that are the strategy's."""
    return {name: value for name, value in options.items() if name != "petl"}


def place(key: str) -> str:
    """Say in words where a recipe of this key holds."""
    return " ".join(_words_of_place(key.split("+")))


@lru_cache
def kind_of_backbone(name: str) -> str:
    """Return "transformer" for a backbone that attends to tokens, "convnet" for any other; takes seconds."""
    import torch

    from clbench.backbones.creation import architecture
    from clbench.backbones.opening import opened

    with torch.device("meta"):
        blocks = opened(architecture(name).build()).blocks
    return "transformer" if any(block.heads for block in blocks) else "convnet"


def _holding(recipes: Mapping[str, Mapping[str, Any]], setting: Setting) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for key in sorted(recipes, key=lambda key: _rank(key.split("+"), setting)):
        if all(map(setting.holds, key.split("+"))):
            held |= recipes[key]
    return held


def _rank(words: list[str], setting: Setting) -> tuple[int, list[int]]:
    order = ("any", *BACKBONES, setting.module, setting.stream, "online")
    return len(words), sorted((order.index(word) for word in words if word in order), reverse=True)


def _words_of_place(words: list[str]) -> Iterator[str]:
    from clbench import petl

    for word in words:
        if word == "online":
            yield "in a single pass"
        elif word in BACKBONES:
            yield f"on a {word}"
        elif word == "any":
            yield "everywhere"
        else:
            yield f"with {word}" if word in petl.names() else f"on {word}"
