"""Read what a learner is also to be deployed as: ``adalog:bits=4``, and several of these joined by ``+``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clbench.cards import RegistryError
from clbench.options import SpecError, Value, build, complete
from clbench.records.record import safe_name
from clbench.records.spec import Part, Variant
from clbench.registry import Registry, UnknownNameError, did_you_mean, is_address

if TYPE_CHECKING:
    from clbench.strategies import Strategy


LONGEST_FOLDER = 100  # characters of a variant's name, with its options
NONE = "none"
REFIT = "refit"  # the word that asks for what was learnt in closed form to be learnt anew


def form_registries() -> dict[str, Registry[Any]]:
    """Return the registries of what changes a backbone's form, by section."""
    from clbench import compress, quant

    return {"quant": quant.registry, "compress": compress.registry}


def split_text(text: str, known: Collection[str] = ()) -> dict[str, str]:
    """Return the name and the options of ``NAME[:option=value,...]``; SpecError for what is not so written.

    NAME may be an address, ``file.py:Class``; ``known`` are names that no address begins with.
    """
    name, colon, rest = text.strip().rpartition(":")
    if name in known and "=" not in rest:
        raise SpecError(f"{text!r}: write {name}:option=value, as in rtn:bits=4")
    if not colon or "=" not in rest:
        name, rest = text.strip(), ""
    if "=" in name:
        raise SpecError(f"{text!r}: options stand there twice; of several variants, give each a --variant")
    table = {"name": name}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not (equals and key.strip() and value.strip()):
            raise SpecError(f"{text!r}: write NAME:option=value,option=value, as in adalog:bits=4")
        if key.strip() in table:
            raise SpecError(f"{text!r}: {key.strip()} stands there twice")
        table[key.strip()] = value.strip()
    if not name:
        raise SpecError(f"{text!r}: there is no name before the colon")
    return table


def component(registry: Registry[Any], section: str, table: Mapping[str, Any]) -> Part | None:
    """Return the component that a section names, all its options filled in; None where it names none."""
    options = {key: value for key, value in table.items() if key != "name"}
    name = str(table.get("name", NONE))
    if name == NONE:
        if options:
            raise SpecError(f"{section}.{next(iter(options))} is given, and no {section} that has it")
        return None
    return Part(name=name, options=complete(registry.get(name), section, options))


def refuse_refits(variants: Iterable[Variant], strategy: type[Strategy], calibration: str) -> None:
    """Raise SpecError where what was learnt cannot be learnt anew from a variant's features."""
    from clbench import quant

    for variant in variants:
        if not variant.refit:
            continue
        if not strategy.refits:
            raise SpecError(
                f"variant {variant.name!r}: what {strategy.__name__} has learnt cannot be learnt anew without"
                " earlier images; what simplecil, slda, fecam and ranpac have learnt can"
            )
        if variant.quant is None and variant.compress is None:
            raise SpecError(f"variant {variant.name!r}: there is nothing that would change the features")
        own = variant.quant
        looks = own is not None and build(quant.get(own.name), "quant", own.options).num_images > 0
        if looks and calibration != "first":
            raise SpecError(
                f"variant {variant.name!r}: the features must stay the same from task to task, so that the"
                " calibration is that of the first: --set run.calibration=first"
            )


def refuse_second_quantiser(variants: Iterable[Variant], quant: Part | None) -> None:
    """Raise SpecError where a variant would quantise what is quantised while it learns."""
    for variant in variants:
        if quant is not None and variant.quant is not None:
            raise SpecError(
                f"variant {variant.name!r} quantises a backbone that learns in {quant.name} already;"
                " leave out --quant or the variant"
            )


def refuse_other_degree(variants: Iterable[Variant], learnt: Part | None) -> None:
    """Raise SpecError where a variant's plug-in repairs another degree than the learner learns at."""
    from clbench import compress

    at = build(compress.get(learnt.name), "compress", learnt.options) if learnt else None
    for variant in variants:
        if variant.compress is not None:
            own = build(compress.get(variant.compress.name), "compress", variant.compress.options)
            told = own.misfit_with(at)
            if told:
                raise SpecError(f"variant {variant.name!r}: {told}")


def variants_of(asked: Sequence[str | Mapping[str, Any]], strategy: type[Strategy]) -> tuple[Variant, ...]:
    """Return the variants that are asked for, as texts or as the tables of a TOML file.

    SpecError where one is named twice, or two would be kept in one folder.
    """
    found = [_variant(each, strategy) for each in asked]
    for number, variant in enumerate(found):
        for other in found[:number]:
            if variant.name == other.name or _made_of(variant) == _made_of(other):
                raise SpecError(f"variant {variant.name!r} is named twice (the other: {other.name!r})")
            if folder_of(variant) == folder_of(other):
                raise SpecError(
                    f"variants {other.name!r} and {variant.name!r} would be kept in one folder,"
                    f" {folder_of(variant)}; leave one out"
                )
    return tuple(found)


def folder_of(variant: Variant) -> str:
    """Return the name of the folder that a variant is kept in; of a file's path in it, the file's name."""
    name = re.sub(r"[^:,=+]*[/\\]", "", variant.name)
    return safe_name(name.replace("+", "--").replace("=", ""), LONGEST_FOLDER)


def _variant(asked: str | Mapping[str, Any], strategy: type[Strategy]) -> Variant:
    if not isinstance(asked, str):
        return _written(asked, strategy)
    pieces = [piece.strip() for piece in asked.split("+")]
    found: dict[str, Any] = {"name": "+".join(pieces)}
    for piece in pieces:
        table = split_text(piece, [name for each in form_registries().values() for name in each.names()])
        for key, value in _component(asked, table, strategy).items():
            if key in found:
                raise SpecError(f"variant {asked!r}: it has two of the kind {key!r}; one is allowed")
            found[key] = value
    return Variant(**found)


def _written(table: Mapping[str, Any], strategy: type[Strategy]) -> Variant:
    """Return a variant from a table that holds its parts, or its name alone."""
    if set(table) == {"name"}:
        return _variant(str(table["name"]), strategy)
    allowed = Variant.model_fields
    for key in table:
        if key not in allowed:
            near = did_you_mean(key, allowed)
            raise SpecError(f"[[variant]] has no {key!r}{near} (allowed: {', '.join(allowed)})")
    if "name" not in table:
        raise SpecError("[[variant]] has no name")
    made = {kind: component(each, kind, table.get(kind, {})) for kind, each in form_registries().items()}
    own = str(table.get("own", ""))
    if own:
        _check_own(str(table["name"]), own, strategy)
    return Variant(name=str(table["name"]), **made, own=own, refit=bool(table.get("refit", False)))


def _component(asked: str, table: Mapping[str, str], strategy: type[Strategy]) -> dict[str, Any]:
    """Return what one piece of a variant is, by the kind of it."""
    name, registries = table["name"], form_registries()
    if name == REFIT and len(table) == 1:
        return {"refit": True}
    if name in strategy.own_variants and len(table) == 1:
        return {"own": name}
    kind = _kind_at(name) if is_address(name) else _kind_named(name)
    if kind:
        return {kind: component(registries[kind], f"variant {asked!r}: {kind}", table)}
    known = [*(each for kind in registries.values() for each in kind.names()), *strategy.own_variants, REFIT]
    raise SpecError(f"variant {asked!r}: no {name!r}{did_you_mean(name, known)} (allowed: {_listed(known)})")


def _kind_named(name: str) -> str:
    """Return the section of a registered name; nothing where there is none."""
    return next((kind for kind, each in form_registries().items() if name in each.names()), "")


def _kind_at(address: str) -> str:
    """Return the section of what an address names, which is imported for that."""
    refusals = []
    for kind, registry in form_registries().items():
        try:
            registry.get(address)
        except (RegistryError, UnknownNameError) as error:
            refusals.append(error)
        else:
            return kind
    raise refusals[0]


def _check_own(variant: str, name: str, strategy: type[Strategy]) -> None:
    if name not in strategy.own_variants:
        known = _listed(strategy.own_variants) or "none"
        raise SpecError(
            f"variant {variant!r}: the strategy has none of its own called {name!r} (allowed: {known})"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _made_of(variant: Variant) -> dict[str, Value | dict[str, Value]]:
    return {key: value for key, value in variant.to_dict().items() if key != "name"}
