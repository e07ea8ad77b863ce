"""Say what is known of one name, as plain data: ``clbench show`` and the pages of methods are made of it.

The name's code is imported for it; everything heavy is imported when it is asked for.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from clbench import backbones, petl, strategies, streams
from clbench.cards import RegistryError
from clbench.cli.listing import KINDS, REGISTRIES, SECTION_OF, metric_summaries
from clbench.cli.options import Option, options
from clbench.evaluate.former_names import FORMER, current_name
from clbench.registry import UnknownNameError, did_you_mean
from clbench.runs.needs import NEEDS


@dataclass(frozen=True)
class Note:
    """One line about how something is used: words, and names that belong to them."""

    words: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Write the line."""
        return f"{self.words}: {', '.join(self.names)}" if self.names else self.words


@dataclass(frozen=True)
class Description:
    """What a name is, its options and what combines with it."""

    name: str
    kind: str  # in the singular, as the spec's section is called: "strategy", "petl", "metric"
    paragraphs: tuple[str, ...]  # of its docstrings, with the line breaks, lists and ``marks`` of the source
    facts: tuple[tuple[str, str], ...] = ()
    options: tuple[Option, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def summary(self) -> str:
        """The first sentence."""
        return self.paragraphs[0].split("\n", 1)[0].rstrip(".")


def describe(name: str, kind: str | None = None) -> list[Description]:
    """Return what a name is; two descriptions where it joins a strategy and a module, as ``lae-lora`` does.

    ``kind`` ("metric", "streams", ...) says among which names to look. UnknownNameError if it is nothing.
    """
    name = current_name(name)
    if kind is not None:
        return _among(kind, name)
    base, module = strategies.split(name)
    if module is not None:
        return [*describe(base), *describe(module)]
    head = name.partition(":")[0]
    for kind, registry in REGISTRIES.items():
        if head in registry.names():
            return [_registered(kind, head)]
    if head.endswith(".py") or (":" in name and head.isidentifier()):
        return [_addressed(name)]
    return [_metric(name) if name in metric_summaries() else _of_timm(name)]


def _among(kind: str, name: str) -> list[Description]:
    """Return what a name of one kind is, which may be given in the singular."""
    singular = {"metric": "metrics", **{section: plural for plural, section in SECTION_OF.items()}}
    plural = singular.get(kind, kind)
    if plural not in KINDS:
        raise UnknownNameError(
            f"no kind called {kind!r}{did_you_mean(kind, KINDS)} (allowed: {', '.join(KINDS)})"
        )
    if plural == "metrics":
        if name not in metric_summaries():
            near = did_you_mean(name, metric_summaries())
            raise UnknownNameError(f"no {name!r} among the metrics{near} (see: clbench list metrics)")
        return [_metric(name)]
    if plural != "backbones" and strategies.split(name)[1] is None:
        REGISTRIES[plural].get(name.partition(":")[0] if plural == "streams" else name)
    return describe(name)


def _registered(kind: str, name: str) -> Description:
    return Description(
        name,
        SECTION_OF[kind],
        _paragraphs(REGISTRIES[kind].card(name).doc),
        facts=_inside(name) if kind == "backbones" else (),
        options=_options(kind, name),
        notes=tuple(USES[kind](name)),
    )


def _addressed(address: str) -> Description:
    """Describe the class at ``file.py:Class`` or ``module:Class``."""
    kind = _kind_of(address)
    doc = REGISTRIES[kind].card(address).doc
    return Description(address, SECTION_OF[kind], _paragraphs(doc), options=_options(kind, address))


def _kind_of(address: str) -> str:
    """Return the kind of the class at ``file.py:Class`` or ``module:Class``."""
    refused = None
    for kind, registry in REGISTRIES.items():
        try:
            registry.get(address)
        except RegistryError as error:  # a class, but of another kind
            refused = error
        else:
            return kind
    raise UnknownNameError(f"{address} is no stream, strategy, backbone or module") from refused


def _options(kind: str, name: str) -> tuple[Option, ...]:
    component = backbones.BackboneOptions if kind == "backbones" else REGISTRIES[kind].get(name)
    return tuple(options(component))


def _of_timm(name: str) -> Description:
    import timm

    ours = {*strategies.combinations(), *(each for kind in REGISTRIES.values() for each in kind.names())}
    if not timm.is_model(name.partition(".")[0]):
        near = did_you_mean(name, [*sorted(ours), *metric_summaries()]) or did_you_mean(
            name, timm.list_models()
        )
        raise UnknownNameError(f"nothing is called {name!r}{near} (see: clbench list)")
    return Description(
        name,
        "backbone",
        ("A network of timm's.",),
        facts=_inside(name),
        options=_options("backbones", name),
    )


def _inside(name: str) -> tuple[tuple[str, str], ...]:
    """Look into a network that is given no memory."""
    import timm
    import torch

    from clbench.backbones.creation import architecture
    from clbench.backbones.opening import opened

    network = architecture(name)
    with torch.device("meta"):
        model = network.build()
    images, inside = network.preprocessing(model), opened(model)
    sites = [site for site in inside.blocks[0].sites if site]
    return (
        ("parameters", f"{sum(each.numel() for each in model.parameters()):,}"),
        ("images", f"{images.image_size} px, mean {images.mean}, std {images.std}, {images.interpolation}"),
        ("features", f"{inside.width} wide, from {len(inside.blocks)} blocks"),
        ("sites", f"embed, pooled, block[i] and of each block: {', '.join(sites) or 'none'}"),
        ("weights", ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}*")) or "its own"),
    )


def _metric(name: str) -> Description:
    from clbench.evaluate import METRICS

    metric = METRICS[name]
    former = ", ".join(before for before, now in FORMER.items() if now == name)
    facts = (
        *([("called before", former)] if former else []),
        ("formula", metric.formula),
        ("averaging", metric.averaging),
        ("unit", metric.unit or "a share, shown in percent"),
        ("unknown if", metric.unknown),
        ("reference", metric.reference),
        ("direction", "higher is better" if metric.higher_is_better else "lower is better"),
    )
    return Description(name, "metric", _paragraphs(f"{metric.function.__doc__}"), facts)


def _of_strategy(name: str) -> Iterator[Note]:
    strategy = strategies.get(name)
    for need in strategy.needs:
        yield Note(f"needs {NEEDS[need].words}: {NEEDS[need].remedy}")
    for stream, recipe in sorted(strategy.recipes.items()):
        values = tuple(f"{option}={value}" for option, value in recipe.items())
        yield Note(f"{_place(stream)} the defaults are", values)
    default = strategies.registry.card(name).preset.get("petl", "linear")
    yield Note(
        f"combines with every stream and backbone that meet its needs, and every module, as in {name}-lora"
        f" (see: clbench list petl; plain {name}: {name}-{default})"
    )


def _place(recipe: str) -> str:
    """Say where a recipe of a strategy holds: on a stream, or in a single pass, perhaps with one module."""
    if recipe.partition("-")[0] != "online":
        return f"on {recipe}"
    module = recipe.removeprefix("online").lstrip("-")
    return f"in a single pass{f' with {module}' if module else ''} (stream.online)"


def _of_stream(name: str) -> Iterator[Note]:
    argument = streams.registry.card(name).preset.get("argument")
    written = f"{name}:{str(argument).upper()}" if argument else name
    yield Note(f"combines with every strategy and backbone: clbench run --stream {written}")


def _of_petl(name: str) -> Iterator[Note]:
    recipe = petl.get(name).recipe.items()
    if recipe:
        settings = " ".join(f"--set strategy.{option}={value}" for option, value in recipe)
        yield Note(f"its own recipe: {settings}")
    if petl.get(name).trains_backbone:
        yield Note("  the default of strategies without a learning rate of their own, on pre-trained weights")
    yield Note("combines with every strategy", tuple(f"{each}-{name}" for each in strategies.names()))


def _of_backbone(name: str) -> Iterator[Note]:
    yield Note(f"combines with every stream, strategy and module: clbench run --backbone {name}")


USES: dict[str, Callable[[str], Iterator[Note]]] = {
    "streams": _of_stream,
    "strategies": _of_strategy,
    "backbones": _of_backbone,
    "petl": _of_petl,
}


def _paragraphs(doc: str) -> tuple[str, ...]:
    return tuple(re.split(r"\n\n+", inspect.cleandoc(doc)))
