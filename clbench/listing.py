"""Write what ``clbench list`` and ``clbench show`` print: names with a line each, or all about one name.

Listing reads the registries' cards and imports no component; showing imports the one that was asked for.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clbench import backbones, petl, strategies, streams
from clbench.cards import RegistryError
from clbench.needs import NEEDS
from clbench.registry import Registry, UnknownNameError, did_you_mean

REGISTRIES: dict[str, Registry[Any]] = {
    "streams": streams.registry,
    "strategies": strategies.registry,
    "backbones": backbones.registry,
    "petl": petl.registry,
}
KINDS = (*REGISTRIES, "metrics")
SECTION_OF = {"streams": "stream", "strategies": "strategy", "backbones": "backbone", "petl": "petl"}
HINTS = {
    "streams": "--stream NAME; a file of your own: --stream path/to/file.py:Class",
    "strategies": "--strategy NAME or NAME-PETL, as in lae-lora; a file of your own: path/to/file.py:Class",
    "backbones": "--backbone NAME, or any of timm's, as in vit_tiny_patch16_224 or"
    " vit_base_patch16_224.augreg_in21k (architecture.weights); ViT, Swin, ConvNeXt, ResNet and"
    " MobileNet (EfficientNet) families",
    "petl": "--petl NAME: the module that is trained in the frozen backbone; measured with"
    " clbench list petl --backbone NAME",
    "metrics": "computed at the end of every run, in metrics.json of its record",
}


def listing(kind: str | None = None) -> RenderableType:
    """Return the names of one kind, or of all, each with its summary; UnknownNameError for other kinds."""
    if kind is not None and kind not in KINDS:
        raise UnknownNameError(
            f"nothing to list called {kind!r}{did_you_mean(kind, KINDS)} (allowed: {', '.join(KINDS)})"
        )
    wanted = KINDS if kind is None else (kind,)
    return Group(*(part for each in wanted for part in _section(each)))


def showing(name: str, kind: str | None = None) -> RenderableType:
    """Return what a name is, its options and what combines with it; UnknownNameError if it is nothing.

    ``kind`` ("metric", "streams", ...) says among which names to look.
    """
    if kind is not None:
        plural = {"metric": "metrics", **{section: each for each, section in SECTION_OF.items()}}.get(
            kind, kind
        )
        if plural not in KINDS:
            raise UnknownNameError(
                f"no kind called {kind!r}{did_you_mean(kind, KINDS)} (allowed: {', '.join(KINDS)})"
            )
        if plural == "metrics":
            if name not in _metrics():
                near = did_you_mean(name, _metrics())
                raise UnknownNameError(f"no {name!r} among the metrics{near} (see: clbench list metrics)")
            return Group(*_about_metric(name))
        if plural != "backbones" and strategies.split(name)[1] is None:
            REGISTRIES[plural].get(name.partition(":")[0] if plural == "streams" else name)
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
    if name in _metrics():
        return Group(*_about_metric(name))
    return Group(*_about_timm(name))


def _section(kind: str) -> Iterator[RenderableType]:
    summaries = _metrics() if kind == "metrics" else _summaries(REGISTRIES[kind])
    yield Text.assemble((kind, "bold"), f"  ({HINTS[kind]})")
    yield _indented(_rows(summaries.items()))


def _summaries(registry: Registry[Any]) -> dict[str, str]:
    return {name: registry.card(name).summary.replace("``", "") for name in registry.names()}


def _metrics() -> dict[str, str]:
    from clbench.evaluate import METRICS

    return {name: metric.summary for name, metric in METRICS.items()}


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
        near = did_you_mean(name, [*sorted(ours), *_metrics()]) or did_you_mean(name, timm.list_models())
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
    yield _indented(_rows(facts))


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
    yield _indented(_rows(facts))


def _heading(name: str, section: str, doc: str) -> Iterator[RenderableType]:
    yield Text.assemble((name, "bold"), f"  ({section})")
    yield _indented(Text(_reflowed(doc)))


def _options(component: type, section: str) -> Iterator[RenderableType]:
    from clbench.options import options

    rows = [(each.name, each.type, each.default, each.comment) for each in options(component)]
    if rows:
        yield Text(f"options  (--set {section}.NAME=VALUE, or [{section}] in a --config file)")
        yield _indented(_rows([("name", "values", "default", ""), *rows]))


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


def _indented(what: RenderableType) -> Padding:
    return Padding(what, (0, 0, 1, 2), expand=False)


def _reflowed(doc: str) -> str:
    """Join the lines of each paragraph and of each list item, for a terminal of any width."""
    return re.sub(r"(?<=\S)\n(?=[^\s-])|(?<=\S)\n +(?=[^\s-])", " ", inspect.cleandoc(doc)).replace("``", "")


def _rows(rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table.grid(padding=(0, 2))
    cells = list(rows)
    for number in range(max(map(len, cells), default=0)):
        table.add_column(no_wrap=number == 0, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    return table
