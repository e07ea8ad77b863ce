"""Make a component from the options that a user gave: checked against the fields of its dataclass."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from clbench.errors import UserError
from clbench.outside.mistakes import OURS, PluginError, own_classes
from clbench.registry import did_you_mean

Value = bool | int | float | str
C = TypeVar("C")
LATER = "later"  # in an option's annotation: it came after records were written (see ``complete``)
AS_TYPED = ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False)  # tasks = 10 is as good as "10"


class SpecError(UserError, ValueError):
    """A value that a run cannot be made from."""

    options_are_at_fault = True


def option_types(component: type) -> dict[str, Any]:
    """Return the name and annotated type of every option of a component's dataclass."""
    hints = typing.get_type_hints(component, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(component) if field.init}


def build(component: type[C], section: str, options: Mapping[str, Any]) -> C:
    """Validate options against a component's dataclass; SpecError in one line if they do not fit."""
    refuse_odd_class(component)  # type: ignore[arg-type]  # mypy takes a class for something without a hash
    values = validated(option_types(component), section, options)
    try:
        return component(**values)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{section}: {error}") from error


def validated(hints: Mapping[str, Any], section: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as their annotated types have them; SpecError in one line if they do not fit."""
    values = {}
    for name, value in options.items():
        if name not in hints:
            near = did_you_mean(name, hints)
            raise SpecError(f"{section} has no option {name!r}{near} (allowed: {', '.join(hints) or 'none'})")
        try:
            values[name] = TypeAdapter(hints[name], config=AS_TYPED).validate_python(
                _chosen(hints[name], value)
            )
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise SpecError(
                f"{section}.{name}: {value!r} is not allowed: {reason[0].lower()}{reason[1:]}"
            ) from error
    return values


def _chosen(hint: Any, value: Any) -> Any:
    """Return the one of a fixed set of choices that is written so; pydantic reads no number for those."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return {str(choice): choice for choice in choices}.get(value, value) if isinstance(value, str) else value


def complete(component: type, section: str, options: Mapping[str, Any]) -> dict[str, Value]:
    """Return every option of a component with its validated or default value.

    An option annotated ``LATER`` is left out at its default, so that what was written before it came keeps
    its id. A value that equals the default is the default: 8 and 8.0 are one id.
    """
    instance: object = build(component, section, options)
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(component)}
    came_later = _came_later(component)
    values = {name: getattr(instance, name) for name in option_types(component)}
    return {
        name: defaults[name] if value == defaults[name] else value
        for name, value in values.items()
        if name not in came_later or value != defaults[name]
    }


def is_whole(component: type, options: Mapping[str, Any]) -> bool:
    """Tell whether options are all that ``complete`` may return: nothing is left for anybody to choose."""
    return set(option_types(component)) <= {*options, *_came_later(component)}


def _came_later(component: type) -> set[str]:
    hints = option_types(component)
    return {name for name, hint in hints.items() if LATER in getattr(hint, "__metadata__", ())}


@cache
def refuse_odd_class(component: type) -> None:
    """Raise PluginError in one line where a class of somebody else's cannot mean what its author means.

    It is to be a dataclass; its options have types that can be typed in, and defaults of these types; and its
    hooks take what they are called with.
    """
    for own in own_classes(component):
        if _lacks_decorator(own):
            raise PluginError(f"{own.__name__} is no dataclass; write @dataclass above class {own.__name__}")
        for told in (*_odd_attributes(own), *_odd_hooks(own)):
            raise PluginError(f"{own.__name__}{told}")
    if own_classes(component):
        for told in _odd_options(component):
            raise PluginError(f"{component.__name__}{told}")


def own_hints(own: type) -> dict[str, Any]:
    """Return the annotations in the body of a class, which Python 3.14 makes when they are asked for."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(own, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(own)


def _lacks_decorator(own: type) -> bool:
    """Tell whether a class is no dataclass; one that adds no option to another dataclass need not say so."""
    if "__dataclass_fields__" in vars(own):
        return False
    hints = map(str, own_hints(own).values())
    is_first = any(base.__module__.partition(".")[0] in OURS for base in own.__bases__)
    return is_first or any("ClassVar" not in hint for hint in hints)


def _odd_attributes(own: type) -> Iterator[str]:
    """Tell of plain values without a type: a dataclass makes no option of them, and keeps other defaults."""
    hints = [own_hints(each) for each in own.__mro__]
    class_wide = {name for each in hints for name, hint in each.items() if "ClassVar" in str(hint)}
    for name, value in vars(own).items():
        is_plain = isinstance(value, (bool, int, float, str)) and not name.startswith("_")
        if is_plain and name not in hints[0] and name not in class_wide:
            written = f"{name}: {type(value).__name__} = {value!r}"
            yield f".{name} has no type, so it is no option; write {written} (or ClassVar if it is none)"


def _odd_hooks(own: type) -> Iterator[str]:
    """Tell of methods that cannot be called as the hook of that name is."""
    for name, method in vars(own).items():
        hook = next((vars(each)[name] for each in own.__mro__[1:] if name in vars(each)), None)
        if not (isinstance(method, types.FunctionType) and isinstance(hook, types.FunctionType)):
            continue
        if hook.__module__.partition(".")[0] not in OURS or name.startswith("__"):
            continue
        expected, given = inspect.signature(hook), inspect.signature(method)
        try:
            given.bind(*expected.parameters)
        except TypeError:
            yield f".{name}{_names(given)} is called as {name}{_names(expected)}; give it these parameters"


def _names(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"


def _odd_options(component: type) -> Iterator[str]:
    """Tell of options that cannot be typed in, or whose default is not of their type."""
    try:
        known = option_types(component)
    except NameError as error:
        yield f": a type of an option is not known: {error}; import it"
        return
    for option in dataclasses.fields(component):
        if not option.init:
            continue
        if not _can_be_typed(known[option.name]):
            hint = inspect.formatannotation(known[option.name])
            yield f".{option.name}: {hint} is no type of an option (allowed: bool, int, float, str, Literal)"
        elif option.default is dataclasses.MISSING:
            yield f".{option.name} has no plain default; write {option.name}: ... = VALUE"
        else:
            yield from _odd_default(option.name, known[option.name], option.default)
            yield from _other_meaning(component, option.name, option.default)


def _odd_default(name: str, hint: Any, default: object) -> Iterator[str]:
    try:
        TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(default)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        yield f".{name}: its default {default!r} is not of its type: {reason[0].lower()}{reason[1:]}"


def _other_meaning(component: type, name: str, default: object) -> Iterator[str]:
    """Tell of an option that every component of the kind has, and that cannot hold what stands there now."""
    for base in component.__mro__[1:]:
        is_ours = base.__module__.partition(".")[0] in OURS and dataclasses.is_dataclass(base)
        if not is_ours or name not in option_types(base):
            continue
        for told in _odd_default(name, option_types(base)[name], default):
            yield f"{told}; {base.__name__} has an option of this name, choose another"
        return


def _can_be_typed(hint: Any) -> bool:
    """Tell whether a type is made of what a command line and a TOML file can hold."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _can_be_typed(inside[0])
    if origin in (typing.Union, types.UnionType):
        return all(map(_can_be_typed, inside))
    return origin is typing.Literal or hint in (bool, int, float, str)
