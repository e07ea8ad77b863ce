"""Make a component from the options that a user gave: checked against the fields of its dataclass."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from clbench.errors import UserError
from clbench.registry import did_you_mean

Value = bool | int | float | str
C = TypeVar("C")
AS_TYPED = ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False)  # tasks = 10 is as good as "10"


class SpecError(UserError, ValueError):
    """A value that a run cannot be made from."""


def option_types(component: type) -> dict[str, Any]:
    """Return the name and annotated type of every option of a component's dataclass."""
    hints = typing.get_type_hints(component, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(component) if field.init}


def build(component: type[C], section: str, options: Mapping[str, Any]) -> C:
    """Validate options against a component's dataclass; SpecError in one line if they do not fit."""
    values = validated(option_types(component), section, options)
    try:
        return component(**values)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{section}: {error}") from error


def validated(types: Mapping[str, Any], section: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as their annotated types have them; SpecError in one line if they do not fit."""
    values = {}
    for name, value in options.items():
        if name not in types:
            near = did_you_mean(name, types)
            raise SpecError(f"{section} has no option {name!r}{near} (allowed: {', '.join(types) or 'none'})")
        try:
            values[name] = TypeAdapter(types[name], config=AS_TYPED).validate_python(
                _chosen(types[name], value)
            )
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise SpecError(
                f"{section}.{name}: {value!r} is not allowed: {reason[0].lower()}{reason[1:]}"
            ) from error
    return values


def _chosen(hint: Any, value: Any) -> Any:
    """Return the one of a fixed set of choices that is written so; pydantic reads no number for those."""
    choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return {str(choice): choice for choice in choices}.get(value, value) if isinstance(value, str) else value


def complete(component: type, section: str, options: Mapping[str, Any]) -> dict[str, Value]:
    """Return every option of a component with its validated or default value."""
    instance: object = build(component, section, options)
    return {name: getattr(instance, name) for name in option_types(component)}
