"""Turn what a user typed into a spec in which nothing is left to a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from clbench.options import SpecError, Value, complete, is_whole
from clbench.records.recipes import AUTHORS, Setting, with_recipes, without_module
from clbench.records.spec import SECTIONS, USED, Part, RunOptions, RunSpec
from clbench.records.variants import (
    component,
    form_registries,
    refuse_other_degree,
    refuse_refits,
    refuse_second_quantiser,
    variants_of,
)
from clbench.registry import did_you_mean

if TYPE_CHECKING:
    from clbench.petl import Petl
    from clbench.strategies import Strategy

DEFAULTS = {"stream": "split-digits", "strategy": "lae", "backbone": "vit-micro"}  # the embedded default run


def resolve(sections: Mapping[str, Any]) -> RunSpec:
    """Fill every default in; ``sections`` may name only what differs from the embedded default run."""
    from clbench import strategies, streams

    tables = {kind: dict(sections.get(kind, {})) for kind in (*SECTIONS, *USED)}
    stream_name = str(tables["stream"].pop("name", DEFAULTS["stream"]))
    strategy_name, module = strategies.split(str(tables["strategy"].pop("name", DEFAULTS["strategy"])))
    strategy = strategies.get(strategy_name)
    named = tables["petl"].pop("name", None)
    if module and named and module != named:
        raise contradiction(f"{strategy_name}-{module}", str(named))
    stream_name, stream_options = streams.split(stream_name)
    stream = complete(streams.get(stream_name), "stream", {**stream_options, **tables["stream"]})
    backbone_name, backbone = _backbone(tables["backbone"])
    setting = Setting(stream_name, backbone_name, is_online=bool(stream.get("online")))
    own_module = with_recipes(strategy, _recipe(tables["strategy"]), setting).get("petl")
    preset = strategies.registry.card(strategy_name).preset
    petl_name = str(named or module or own_module or preset.get("petl", "linear"))
    setting = replace(setting, module=petl_name)
    defaults = _defaults(strategy, setting, tables["strategy"], backbone["weights"])
    if stream.get("online"):
        defaults |= _single_pass(stream["online"], tables["strategy"])
    forms = {kind: component(each, kind, tables[kind]) for kind, each in form_registries().items()}
    variants = variants_of(sections.get("variant", []), strategy)
    refuse_second_quantiser(variants, forms["quant"])
    refuse_other_degree(variants, forms["compress"])
    run = run_options(tables["run"])
    refuse_refits(variants, strategy, run.calibration)
    return RunSpec(
        stream=Part(name=stream_name, options=stream),
        strategy=Part(
            name=strategy_name, options=complete(strategy, "strategy", {**defaults, **tables["strategy"]})
        ),
        backbone=Part(name=backbone_name, options=backbone),
        petl=Part(name=petl_name, options=_module(strategy, petl_name, tables)),
        run=run,
        quant=forms["quant"],
        compress=forms["compress"],
        variants=variants,
    )


def _recipe(chosen: Mapping[str, Any]) -> str:
    return str(chosen.get("recipe", AUTHORS))


def _defaults(
    strategy: type[Strategy], setting: Setting, chosen: Mapping[str, Any], weights: Value
) -> dict[str, Any]:
    """Return what a strategy's options are where a user chose none; nothing where all were chosen."""
    from clbench import petl, streams

    if is_whole(strategy, chosen):  # written down by an older version, perhaps, without what came later
        return {}
    return {
        **_fine_tuning(strategy, petl.get(setting.module), weights),
        **streams.get(setting.stream).recipe,
        **without_module(with_recipes(strategy, _recipe(chosen), setting)),
    }


def _module(strategy: type[Strategy], name: str, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Value]:
    """Return all options of a module, its defaults being those that a strategy has for it."""
    from clbench import petl

    module = petl.get(name)
    is_written = is_whole(strategy, tables["strategy"]) and is_whole(module, tables["petl"])
    defaults = {} if is_written else strategy.module_options.get(name, {})
    return complete(module, "petl", {**defaults, **tables["petl"]})


def _backbone(table: dict[str, Any]) -> tuple[str, dict[str, Value]]:
    """Return the name and all options of a backbone that there is."""
    from clbench import backbones

    name = str(table.pop("name", DEFAULTS["backbone"]))
    preset: Mapping[str, Any] = {}
    if name in backbones.names():
        preset = backbones.registry.card(name).preset
    else:
        from clbench.backbones.creation import architecture  # takes seconds: it imports timm

        architecture(name)
    return name, complete(backbones.BackboneOptions, "backbone", {**preset, **table})


def _fine_tuning(strategy: type[Strategy], module: type[Petl], weights: Value) -> Mapping[str, Any]:
    """Return the options with which a strategy that sets no learning rate of its own tunes a backbone itself.

    The rate that suits a small module would destroy what pre-trained weights know.
    """
    from clbench import strategies

    has_own_rate = strategy.learning_rate != strategies.Strategy.learning_rate
    return {} if has_own_rate or weights == "none" or not module.trains_backbone else module.recipe


def _single_pass(micro_batch: Value, chosen: Mapping[str, Any]) -> dict[str, Value]:
    """Return the strategy options that a stream of micro-batches leaves no choice of."""
    forced = {"epochs": 1, "batch_size": micro_batch, "drop_last": False}
    for name, value in forced.items():
        if name in chosen and str(chosen[name]).lower() != str(value).lower():
            raise SpecError(
                f"strategy.{name}: {chosen[name]!r} contradicts stream.online={micro_batch},"
                f" which makes it {value}"
            )
    return forced


def contradiction(strategy: str, module: str) -> SpecError:
    """Return what is wrong where a strategy's name holds another module than the one that is named."""
    return SpecError(f"--strategy {strategy} and --petl {module} contradict each other; drop one")


def run_options(options: Mapping[str, Any]) -> RunOptions:
    """Return the run's own options, validated; SpecError in one line if they do not fit."""
    allowed = RunOptions.model_fields
    for name in options:
        if name not in allowed:
            raise SpecError(
                f"run has no option {name!r}{did_you_mean(name, allowed)} (allowed: {', '.join(allowed)})"
            )
    try:
        return RunOptions(**options)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise SpecError(
            f"run.{first['loc'][0]}: {first['input']!r} is not allowed: {reason[0].lower()}{reason[1:]}"
        ) from error
