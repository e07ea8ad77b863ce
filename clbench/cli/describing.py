"""Say what is known of one name, as plain data: ``clbench show`` and the pages of methods are made of it.

The name's code is imported for it; everything heavy is imported when it is asked for.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from clbench import backbones, evaluate, petl, pretrain, quant, strategies, streams
from clbench.cards import RegistryError
from clbench.cli.listing import KINDS, REGISTRIES, SECTION_OF
from clbench.cli.options import Option, options, value_in_words
from clbench.evaluate.former_names import FORMER, current_name
from clbench.records.recipes import AUTHORS, ORIGINS, place
from clbench.registry import UnknownNameError, did_you_mean
from clbench.runs.needs import NEEDS
from clbench.strategies import Strategy

PROBABILITIES = "its scores are probabilities: calibration is measured"
SIMILARITIES = "its scores are no probabilities: calibration is not known"


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
    if head.endswith(".py") or (":" in name and all(part.isidentifier() for part in head.split("."))):
        return [_addressed(name)]
    return [_metric(name) if name in evaluate.names() else _of_timm(name)]


def _among(kind: str, name: str) -> list[Description]:
    """Return what a name of one kind is, which may be given in the singular."""
    singular = {"metric": "metrics", **{section: plural for plural, section in SECTION_OF.items()}}
    plural = singular.get(kind, kind)
    if plural not in KINDS:
        raise UnknownNameError(
            f"no kind called {kind!r}{did_you_mean(kind, KINDS)} (allowed: {', '.join(KINDS)})"
        )
    if plural == "metrics":
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
    """Describe the class or metric at ``file.py:Class`` or ``module:Class``."""
    kinds = kinds_at(address)
    if not kinds:
        raise UnknownNameError(
            f"{address} is no stream, strategy, backbone, module, quantiser, compressor or metric"
        )
    kind = kinds[0]
    if kind == "metrics":
        return _metric(address)
    doc = REGISTRIES[kind].card(address).doc
    notes = (_of_scores(strategies.get(address)),) if kind == "strategies" else ()
    return Description(
        address, SECTION_OF[kind], _paragraphs(doc), options=_options(kind, address), notes=notes
    )


def kinds_at(address: str) -> list[str]:
    """Return the kinds of what is at ``file.py:Class``, ``module:Class`` or in ``file.py``; none: of no kind.

    UnknownNameError if there is nothing of that name at all.
    """
    finders = {**{kind: registry.get for kind, registry in REGISTRIES.items()}, "metrics": evaluate.find}
    kinds = []
    for kind, get in finders.items():
        try:
            get(address)
        except RegistryError:  # it is there, but of another kind
            continue
        except UnknownNameError:
            if ":" in address:
                raise
            continue  # a file that registers none of this kind, or several
        kinds.append(kind)
    return kinds


def _options(kind: str, name: str) -> tuple[Option, ...]:
    component = backbones.BackboneOptions if kind == "backbones" else REGISTRIES[kind].get(name)
    return tuple(options(component))


def _of_timm(name: str) -> Description:
    import timm

    ours = {*strategies.combinations(), *(each for kind in REGISTRIES.values() for each in kind.names())}
    if not timm.is_model(name.partition(".")[0]):
        near = did_you_mean(name, [*sorted(ours), *evaluate.names()]) or did_you_mean(
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
    metric = evaluate.find(name)
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
    return Description(metric.name, "metric", _paragraphs(f"{metric.function.__doc__}"), facts)


def _of_strategy(name: str) -> Iterator[Note]:
    strategy = strategies.get(name)
    yield _of_scores(strategy)
    for need in strategy.needs:
        yield Note(f"needs {NEEDS[need].words}: {NEEDS[need].remedy}")
    if strategy.rereads:
        yield Note(
            f"reads the images of a task again ({strategy.rereads}): where stream.online shows each once, it"
            " keeps them until the task ends, which the run says and a strict online learner may not do"
        )
    if strategy.own_variants:
        yield Note("predicts in forms of its own, too, as in --variant NAME", strategy.own_variants)
    if strategy.refits:
        yield Note("a variant learns anew from its own features what is learnt: --variant QUANTISER+refit")
    yield from _of_recipes(name, strategy)
    default = strategies.registry.card(name).preset.get("petl", "linear")
    yield Note(
        f"combines with every stream and backbone that meet its needs, and every module, as in {name}-lora"
        f" (see: clbench list petl; plain {name}: {name}-{default})"
    )


def _of_scores(strategy: type[Strategy]) -> Note:
    """Say whether the scores of a strategy are probabilities; a property says in its words when."""
    declared = inspect.getattr_static(strategy, "gives_probabilities")
    if not isinstance(declared, property):
        return Note(PROBABILITIES if declared else SIMILARITIES)
    words = (declared.__doc__ or "").strip().split("\n", 1)[0].replace("``", "").rstrip(".")
    condition = words.removeprefix("Whether ") if words.startswith("Whether ") else "its options say so"
    return Note(f"its scores are probabilities if {condition}")


def _of_recipes(name: str, strategy: type[Strategy]) -> Iterator[Note]:
    """Tell the defaults by place, and those of other code bases, whose they are, and how to take them."""
    if strategy.named_recipes:
        yield Note(f"recipe {AUTHORS}, the default: {ORIGINS[AUTHORS]}")
    for key, recipe in sorted(strategy.recipes.items()):
        yield Note(f"{place(key)} the defaults are", _written(recipe))
    for other, recipes in sorted(strategy.named_recipes.items()):
        whose = f": {ORIGINS[other]}" if other in ORIGINS else ""
        yield Note(f"recipe {other}{whose}; clbench run --strategy {name} --set strategy.recipe={other}")
        for key, recipe in sorted(recipes.items()):
            yield Note(f"in recipe {other} {place(key)} the defaults are", _written(recipe))


def _written(recipe: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{option}={value_in_words(value)}" for option, value in recipe.items())


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


def _of_quantiser(name: str) -> Iterator[Note]:
    number = quant.get(name)().num_images
    looks = f"looks at {number} calibration images" if number else "needs no images"
    yield Note(f"{looks}; what modules and heads hold stays in float")
    yield Note(f"to learn on such a backbone: clbench run --quant {name}")
    yield Note(f"to predict so, too, after each task: clbench run --variant {name}")


def _of_compressor(name: str) -> Iterator[Note]:
    yield Note(f"to learn and predict so: clbench run --compress {name}")
    yield Note(f"to predict so, too, after each task: clbench run --variant {name}")
    yield Note("to see what each degree is worth: clbench list compress --backbone vit_tiny_patch16_224")


def _of_pretraining(name: str) -> Iterator[Note]:
    for recipe, own in sorted(pretrain.get(name).recipes.items()):
        yield Note(f"clbench pretrain {name} --set pretrain.recipe={recipe}: its defaults are", _written(own))


def _of_backbone(name: str) -> Iterator[Note]:
    yield Note(f"combines with every stream, strategy and module: clbench run --backbone {name}")


USES: dict[str, Callable[[str], Iterator[Note]]] = {
    "streams": _of_stream,
    "strategies": _of_strategy,
    "backbones": _of_backbone,
    "petl": _of_petl,
    "quant": _of_quantiser,
    "compress": _of_compressor,
    "pretrain": _of_pretraining,
}


def _paragraphs(doc: str) -> tuple[str, ...]:
    return tuple(re.split(r"\n\n+", inspect.cleandoc(doc)))
