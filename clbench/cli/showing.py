"""Write what ``clbench show`` prints: all about one name, which is imported for it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from clbench import backbones, petl, strategies, streams
from clbench.cards import RegistryError
from clbench.cli.listing import KINDS, REGISTRIES, SECTION_OF, indented, metric_summaries, rows
from clbench.registry import UnknownNameError, did_you_mean
from clbench.runs.needs import NEEDS


def showing(name: str, kind: str | None = None) -> RenderableType:
    """Return what a name is, its options and what combines with it; UnknownNameError if it is nothing.

    ``kind`` ("metric", "streams", ...) says among which names to look.
    """
    if kind is not None:
        return _among(kind, name)
    base, module = strategies.split(name)
    if module is not None:
        title = f"{name}: the strategy {base} with the module {module}"
        return Group(Text(title, style="bold"), Text(), showing(base), Text(), showing(module))
    head = name.partition(":")[0]
    for kind, registry in REGISTRIES.items():
        if head in registry.names():
            return Group(*_about(kind, head))
    if head.endswith(".py") or (":" in name and head.isidentifier()):
        kind = _kind_of(name)
        return Group(
            *_heading(name, SECTION_OF[kind], REGISTRIES[kind].card(name).doc), *_options_of(kind, name)
        )
    if name in metric_summaries():
        return Group(*_about_metric(name))
    return Group(*_about_timm(name))


def _among(kind: str, name: str) -> RenderableType:
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
        return Group(*_about_metric(name))
    if plural != "backbones" and strategies.split(name)[1] is None:
        REGISTRIES[plural].get(name.partition(":")[0] if plural == "streams" else name)
    return showing(name)


def _about(kind: str, name: str) -> Iterator[RenderableType]:
    registry, section = REGISTRIES[kind], SECTION_OF[kind]
    card = registry.card(name)
    yield from _heading(name, section, card.doc)
    if kind == "backbones":
        yield from _inside(name)
    yield from _options_of(kind, name)
    yield from COMBINATIONS[kind](name)


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


def _options_of(kind: str, name: str) -> Iterator[RenderableType]:
    component = backbones.BackboneOptions if kind == "backbones" else REGISTRIES[kind].get(name)
    return _options(component, SECTION_OF[kind])


def _about_timm(name: str) -> Iterator[RenderableType]:
    import timm

    ours = {*strategies.combinations(), *(each for kind in REGISTRIES.values() for each in kind.names())}
    if not timm.is_model(name.partition(".")[0]):
        near = did_you_mean(name, [*sorted(ours), *metric_summaries()]) or did_you_mean(
            name, timm.list_models()
        )
        raise UnknownNameError(f"nothing is called {name!r}{near} (see: clbench list)")
    yield from _heading(name, "backbone", "A network of timm's.")
    yield from _inside(name)
    yield from _options(backbones.BackboneOptions, "backbone")


def _inside(name: str) -> Iterator[RenderableType]:
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
    facts = [
        ("parameters", f"{sum(each.numel() for each in model.parameters()):,}"),
        ("images", f"{images.image_size} px, mean {images.mean}, std {images.std}, {images.interpolation}"),
        ("features", f"{inside.width} wide, from {len(inside.blocks)} blocks"),
        ("sites", f"embed, pooled, block[i] and of each block: {', '.join(sites) or 'none'}"),
        ("weights", ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}*")) or "its own"),
    ]
    yield indented(rows(facts))


def _about_metric(name: str) -> Iterator[RenderableType]:
    from clbench.evaluate import METRICS

    metric = METRICS[name]
    better = "higher is better" if metric.higher_is_better else "lower is better"
    yield from _heading(name, "metric", f"{metric.function.__doc__}")
    facts = [
        ("formula", metric.formula),
        ("averaging", metric.averaging),
        ("unit", metric.unit or "a share, shown in percent"),
        ("unknown if", metric.unknown),
        ("reference", metric.reference),
        ("direction", better),
    ]
    yield indented(rows(facts))


def _heading(name: str, section: str, doc: str) -> Iterator[RenderableType]:
    yield Text.assemble((name, "bold"), f"  ({section})")
    yield indented(Text(_reflowed(doc)))


def _options(component: type, section: str) -> Iterator[RenderableType]:
    from clbench.cli.options import options

    lines = [(each.name, each.type, each.default, each.comment) for each in options(component)]
    if lines:
        yield Text(f"options  (--set {section}.NAME=VALUE, or [{section}] in a --config file)")
        yield indented(rows([("name", "values", "default", ""), *lines]))


def _with_strategy(name: str) -> Iterator[RenderableType]:
    strategy = strategies.get(name)
    for need in strategy.needs:
        yield Text(f"needs {NEEDS[need].words}: {NEEDS[need].remedy}")
    for stream, recipe in sorted(strategy.recipes.items()):
        values = ", ".join(f"{option}={value}" for option, value in recipe.items())
        yield Text(f"{_place(stream)} the defaults are: {values}")
    default = strategies.registry.card(name).preset.get("petl", "linear")
    yield Text(
        f"combines with every stream and backbone that meet its needs, and every module, as in {name}-lora"
        f" (see: clbench list petl; plain {name}: {name}-{default})"
    )


def _place(recipe: str) -> str:
    """Say where a recipe of a strategy holds: on a stream, or in a single pass, perhaps with one module."""
    if recipe.partition("-")[0] != "online":
        return f"on {recipe}"
    module = recipe.removeprefix("online").lstrip("-")
    return f"in a single pass{f' with {module}' if module else ''} (stream.online)"


def _with_stream(name: str) -> Iterator[RenderableType]:
    argument = streams.registry.card(name).preset.get("argument")
    written = f"{name}:{str(argument).upper()}" if argument else name
    yield Text(f"combines with every strategy and backbone: clbench run --stream {written}")


def _with_petl(name: str) -> Iterator[RenderableType]:
    recipe = petl.get(name).recipe.items()
    if recipe:
        settings = " ".join(f"--set strategy.{option}={value}" for option, value in recipe)
        yield Text(f"its own recipe: {settings}")
    if petl.get(name).trains_backbone:
        yield Text("  the default of strategies without a learning rate of their own, on pre-trained weights")
    written = ", ".join(f"{strategy}-{name}" for strategy in strategies.names())
    yield Text(f"combines with every strategy: {written}")


def _with_backbone(name: str) -> Iterator[RenderableType]:
    yield Text(f"combines with every stream, strategy and module: clbench run --backbone {name}")


COMBINATIONS = {
    "streams": _with_stream,
    "strategies": _with_strategy,
    "backbones": _with_backbone,
    "petl": _with_petl,
}


def _reflowed(doc: str) -> str:
    """Join the lines of each paragraph and of each list item, for a terminal of any width."""
    return re.sub(r"(?<=\S)\n(?=[^\s-])|(?<=\S)\n +(?=[^\s-])", " ", inspect.cleandoc(doc)).replace("``", "")
