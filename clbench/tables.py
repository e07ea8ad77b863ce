"""Make near-twin classes of a table: ``file.table.toml`` beside ``file.py``, with one row a class.

    ["peft.dora"]                              the name that it is registered under
    class = "DoRA"                             what Python calls it
    summary = "DoRA: LoRA on ..."              the first line of its documentation
    about = "S.-Y. Liu et al., ..."            the rest of it
    options.alpha = ["lora_alpha", "float > 0", 8, "the update is scaled by alpha / r"]
    options.sites = "target_modules"           one that the class inherits

An option has the name that the library behind the class knows it by (empty if by none), its values as
``clbench show`` writes them, its default and its comment; or that name alone, if the class inherits the
option. ``bases`` are for the file to look up. Before the first row ``bases`` and ``preset``, the keywords of
``@register``, hold for every row. All else in a row are attributes of the class, with tuples for lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from clbench.cards import Row

T = TypeVar("T")
PLAIN = {"int": int, "float": float, "text": str, "true | false": bool, "True": Literal[True]}
BOUNDS = {">=": "ge", ">": "gt", "<=": "le", "<": "lt"}


def make_class(row: Row, bases: Sequence[type[T]], module: str, *, frozen: bool = False) -> type[T]:
    """Return the dataclass that a row describes, as if it were written in ``module``.

    ``keywords`` are its options, and what the library behind it calls them.
    """
    told = {name: option[0] if isinstance(option, list) else option for name, option in row.options.items()}
    attributes = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.attributes.items()
    }
    made = dataclasses.make_dataclass(
        row.title,
        [_field(name, *option) for name, option in row.options.items() if isinstance(option, list)],
        bases=tuple(bases),
        namespace={
            **attributes,
            "__doc__": row.doc,
            "keywords": {ours: theirs for ours, theirs in told.items() if theirs},
        },
        frozen=frozen,
    )
    made.__module__ = module
    return made


def type_of_words(words: str) -> Any:
    """Return the annotation that ``clbench.cli.options.type_in_words`` puts in these words."""
    if words in PLAIN:
        return PLAIN[words]
    base, _, bounds = words.partition(" ")
    if base not in PLAIN:
        return Literal[tuple(words.split(" | "))]
    pairs = [bound.split() for bound in bounds.split(", ")]
    limits: dict[str, Any] = {BOUNDS[sign]: int(limit) for sign, limit in pairs}
    return Annotated[PLAIN[base], Field(**limits)]


def _field(name: str, theirs: str, words: str, default: Any, comment: str = "") -> tuple[str, Any, Any]:
    """Return one option as ``dataclasses.make_dataclass`` takes it."""
    return name, type_of_words(words), dataclasses.field(default=default, metadata={"comment": comment})
