"""Check a component as ``clbench check`` does: each promise is printed when it is found to be kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from clbench import compress, petl, quant, strategies, streams
from clbench.cli.arguments import parse_settings
from clbench.cli.describing import kinds_at
from clbench.cli.listing import OWN_KINDS, REGISTRIES
from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.evaluate import find, names
from clbench.options import SpecError, build
from clbench.registry import UnknownNameError, did_you_mean, is_address
from clbench.testing import (
    check_compress,
    check_metric,
    check_petl,
    check_quant,
    check_strategy,
    check_stream,
)

Told = Callable[[str], object]
Options = Mapping[str, object]
SINGULAR = {plural: singular for singular, plural in OWN_KINDS.items()}


class BrokenPromiseError(UserError, AssertionError):
    """A component that does not keep its contract."""


def check(name: str, kind: str | None, settings: list[str], places: Places, told: Told) -> str:
    """Check what a name or an address stands for, and return its kind in the singular.

    ``told`` hears of each promise that is kept. BrokenPromiseError in one line for the first that is not.
    """
    kind = kind_of(name) if kind is None else _singular(kind)
    sections = parse_settings(settings)
    for section in sections:
        if section != kind:
            raise SpecError(f"--set {section}...: {name} is a {kind}; write {kind}.OPTION=VALUE")
    try:
        CHECKS[kind](name, sections.get(kind, {}), places, told)
    except AssertionError as error:
        if isinstance(error, UserError):
            raise
        raise BrokenPromiseError(f"{name} does not keep its contract: {error}") from error
    return kind


def kind_of(name: str) -> str:
    """Return the kind, in the singular, of what a name or an address stands for."""
    address = name.partition(":")[0] if name.partition(":")[0] in streams.names() else name
    if is_address(address):
        place = address.partition(":")[0]
        if place.endswith(".py") and not Path(place).is_file():
            raise UnknownNameError(f"no file {place}")
        found = kinds_at(address)
    else:
        found = [kind for kind, registry in REGISTRIES.items() if address in registry.names()]
        found += ["metrics"] if address in names() else []
        found += ["strategies"] if not found and strategies.split(address)[1] else []
    kinds = [SINGULAR[kind] for kind in found if kind != "backbones"]
    if not kinds:
        raise UnknownNameError(
            f"{name} is no strategy, stream, module, quantiser, compressor or metric that can be checked"
        )
    if len(kinds) > 1:
        raise UnknownNameError(f"{name} may be a {' or a '.join(kinds)}; say which: --kind {kinds[0]}")
    return kinds[0]


def _singular(kind: str) -> str:
    singular = SINGULAR.get(kind, kind)
    if singular not in OWN_KINDS:
        raise UnknownNameError(
            f"--kind {kind!r}{did_you_mean(kind, OWN_KINDS)} (allowed: {', '.join(OWN_KINDS)})"
        )
    return singular


def _strategy(name: str, options: Options, places: Places, told: Told) -> None:
    _, module = strategies.split(name)
    component = strategies.get(name)
    build(component, "strategy", options)  # what is wrong with the options is told once, and first
    check_strategy(lambda: build(component, "strategy", options), module, told=told)


def _stream(name: str, options: Options, places: Places, told: Told) -> None:
    head, given = streams.split(name)
    component = streams.get(head)
    chosen = {**given, **options}
    build(component, "stream", chosen)
    check_stream(lambda **others: build(component, "stream", {**chosen, **others}), places, told=told)


def _petl(name: str, options: Options, places: Places, told: Told) -> None:
    check_petl(build(petl.get(name), "petl", options), told=told)


def _metric(name: str, options: Options, places: Places, told: Told) -> None:
    check_metric(find(name), told=told)


def _quant(name: str, options: Options, places: Places, told: Told) -> None:
    check_quant(build(quant.get(name), "quant", options), told=told)


def _compress(name: str, options: Options, places: Places, told: Told) -> None:
    check_compress(build(compress.get(name), "compress", options), told=told)


CHECKS: dict[str, Callable[[str, Options, Places, Told], None]] = {
    "strategy": _strategy,
    "stream": _stream,
    "petl": _petl,
    "metric": _metric,
    "quant": _quant,
    "compress": _compress,
}
