"""A strategy's defaults are its authors' for the stream, the backbone and the module, or another recipe's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from clbench import petl, strategies, streams
from clbench.cli.describing import describe
from clbench.options import SpecError, build, is_whole, option_types
from clbench.records.recipes import BACKBONES, ORIGINS, Setting, place, with_recipes
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.strategies import Strategy

WORDS = {"any", "online", *BACKBONES}
R, C, FIVE = "split-imagenet-r", "split-cifar100", "5-datasets"


def options_of(strategy: str, stream: str, recipe: str = "authors", **backbone: str) -> dict[str, Any]:
    spec = resolve(
        {"stream": {"name": stream}, "strategy": {"name": strategy, "recipe": recipe}, "backbone": backbone}
    )
    return {"petl": spec.petl.name, **spec.petl.options, **spec.strategy.options}


AUTHORS = [
    ("dualprompt", R, {"epochs": 50, "general_length": 5, "expert_length": 20, "key_weight": 1.0}),
    ("dualprompt", R, {"learning_rate": 0.005 * 24 / 256}),
    ("dualprompt", C, {"epochs": 5, "expert_length": 5, "learning_rate": 0.03 * 24 / 256, "key_weight": 1.0}),
    ("l2p", C, {"key_weight": 1.0, "pool_size": 10, "prompt_length": 10, "top_k": 4}),
    ("l2p", C, {"learning_rate": 0.03 * 16 / 256}),
    ("l2p", FIVE, {"key_weight": 0.5, "pool_size": 20, "prompt_length": 10, "top_k": 4}),
    ("l2p", "core50", {"key_weight": 1.0, "pool_size": 10, "prompt_length": 5, "top_k": 4}),
    ("coda-prompt", C, {"epochs": 20, "schedule": "quarter-cosine"}),
    ("coda-prompt", R, {"epochs": 50, "schedule": "quarter-cosine"}),
    ("inflora", R, {"epochs": 50, "schedule": "quarter-cosine", "kept": 0.98}),
    ("slca", C, {"epochs": 20, "schedule": "step"}),  # milestone 18 of 20: the default, 0.9
    ("slca", R, {"epochs": 50, "schedule": "step", "milestone": 0.8}),
    ("ranpac", R, {"petl": "ssf", "epochs": 20, "batch_size": 48, "learning_rate": 0.01}),
    ("ranpac", R, {"weight_decay": 5e-4, "logits": "linear"}),
    ("ranpac", C, {"petl": "adaptformer", "epochs": 20, "batch_size": 48, "learning_rate": 0.01}),
    ("aper", C, {"epochs": 20, "batch_size": 48, "learning_rate": 0.01, "weight_decay": 5e-4}),
    ("aper", R, {"epochs": 20, "batch_size": 24, "learning_rate": 0.05, "weight_decay": 5e-3}),
    ("aper-full", C, {"epochs": 5, "batch_size": 128, "learning_rate": 0.01, "weight_decay": 5e-4}),
    ("aper-full", R, {"epochs": 5, "batch_size": 128, "learning_rate": 0.01, "weight_decay": 5e-4}),
    ("aper-vpt-deep", C, {"epochs": 5, "batch_size": 16, "learning_rate": 0.05, "first_values": "zeros"}),
    ("aper-vpt-shallow", C, {"epochs": 20, "batch_size": 48, "learning_rate": 0.01, "first_values": "zeros"}),
    ("aper-ssf", R, {"epochs": 20, "batch_size": 48, "learning_rate": 0.01, "weight_decay": 5e-4}),
    ("ease", C, {"batch_size": 48, "learning_rate": 0.025, "weight_decay": 5e-4}),
    ("ease", R, {"batch_size": 16, "learning_rate": 0.05, "weight_decay": 5e-3}),
    ("fecam", C, {"power": 1.0, "diagonal_shrinkage": 1.0, "other_shrinkage": 0.0}),
    ("fecam", R, {"power": 1.0, "diagonal_shrinkage": 10.0, "other_shrinkage": 10.0}),
    ("lae", C, {"petl": "adapter", "epochs": 5, "frozen_epochs": 3, "batch_size": 24}),
    ("lae", R, {"epochs": 50, "frozen_epochs": 30, "learning_rate": 0.00046875}),
]
PILOT = [
    ("dualprompt", R, {"epochs": 10, "expert_length": 5, "key_weight": 0.1, "learning_rate": 0.001}),
    ("dualprompt", C, {"epochs": 5, "start": "wide", "key_weight": 0.1, "learning_rate": 0.001}),
    ("l2p", C, {"pool_size": 10, "prompt_length": 5, "top_k": 5, "key_weight": 0.1, "batch_size": 16}),
    ("l2p", R, {"epochs": 10, "batch_size": 32, "learning_rate": 0.001875, "start": "wide"}),
    ("slca", R, {"epochs": 5, "batch_size": 64, "alignment_epochs": 3, "schedule": "constant"}),
    ("aper", R, {"epochs": 10, "batch_size": 16, "learning_rate": 0.05, "weight_decay": 5e-3}),
    ("aper-full", R, {"epochs": 5, "batch_size": 144, "weight_decay": 5e-3}),
    ("aper-vpt-deep", R, {"epochs": 20, "batch_size": 24, "learning_rate": 0.05}),
    ("ranpac", R, {"petl": "adaptformer", "epochs": 10, "batch_size": 16, "logits": "cosine"}),
    ("lae", C, {"petl": "prefix", "batch_size": 128, "learning_rate": 0.0028125}),
]


@pytest.mark.parametrize(("strategy", "stream", "values"), AUTHORS)
def test_defaults_are_those_of_the_authors_own_code(strategy: str, stream: str, values: dict[str, Any]):
    found = options_of(strategy, stream)
    assert {name: found[name] for name in values} == values


@pytest.mark.parametrize(("strategy", "stream", "values"), PILOT)
def test_a_named_recipe_is_another_code_bases(strategy: str, stream: str, values: dict[str, Any]):
    found = options_of(strategy, stream, "pilot")
    assert {name: found[name] for name in values} == values
    assert found["recipe"] == "pilot"


def test_fecam_has_a_setting_for_convnets_and_one_for_transformers():
    convnet = options_of("fecam", C, name="slim-resnet18", weights="none")
    assert (convnet["power"], convnet["shrinkages"], convnet["unit_statistics"]) == (0.5, 2, False)
    assert (convnet["diagonal_shrinkage"], convnet["other_shrinkage"]) == (1.0, 1.0)
    assert options_of("fecam", C)["power"] == 1.0


def test_the_rate_follows_the_batch_unless_it_is_given():
    for strategy in ("l2p", "dualprompt"):
        doubled = resolve({"strategy": {"name": strategy, "batch_size": 64}}).strategy.options
        assert doubled["learning_rate"] == 0.03 * 64 / 256
        given = {"name": strategy, "batch_size": 64, "learning_rate": 0.5}
        assert resolve({"strategy": given}).strategy.options["learning_rate"] == 0.5
    online = resolve({"stream": {"online": 10}, "strategy": {"name": "l2p"}}).strategy.options
    assert online["learning_rate"] == 0.03 * 10 / 256


def test_an_unknown_recipe_is_told_with_those_that_there_are():
    with pytest.raises(
        SpecError, match=r"recipe: 'pilto' is not .*mean 'pilot'\? \(allowed: authors, pilot\)"
    ):
        resolve({"strategy": {"name": "l2p", "recipe": "pilto"}})
    with pytest.raises(SpecError, match=r"recipe: 'pilot' is not allowed \(allowed: authors\)"):
        resolve({"strategy": {"name": "er", "recipe": "pilot"}})


# precedence


@dataclass
class Ranked(Strategy):
    """Recipes that contradict each other."""

    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "online": {"epochs": 6},
        C: {"epochs": 5},
        "lora": {"epochs": 4},
        "transformer": {"epochs": 3},
        "any": {"epochs": 2},
        f"lora+{C}": {"momentum": 0.5},
    }
    named_recipes: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"other": {"any": {"epochs": 7}}}


@pytest.mark.parametrize(
    ("setting", "recipe", "epochs"),
    [
        (Setting("split-digits", "slim-resnet18"), "authors", 2),
        (Setting("split-digits", "vit-micro"), "authors", 3),
        (Setting("split-digits", "vit-micro", module="lora"), "authors", 4),
        (Setting(C, "vit-micro", module="lora"), "authors", 5),
        (Setting(C, "vit-micro", is_online=True, module="lora"), "authors", 6),
        (Setting(C, "vit-micro", is_online=True, module="lora"), "other", 7),
    ],
)
def test_the_narrower_place_wins_and_a_named_recipe_over_all(setting: Setting, recipe: str, epochs: int):
    chosen = with_recipes(Ranked, recipe, setting)
    assert chosen["epochs"] == epochs
    assert ("momentum" in chosen) == (setting.stream == C)


def test_what_is_given_wins_over_a_named_recipe():
    given = {"name": "dualprompt", "recipe": "pilot", "key_weight": 0.7}
    assert resolve({"strategy": given}).strategy.options["key_weight"] == 0.7
    named = {"stream": {"name": R}, "strategy": {"name": "ranpac"}, "petl": {"name": "lora"}}
    assert resolve(named).petl.name == "lora"


def test_a_modules_option_leaves_its_others_as_the_strategy_has_them():
    options = resolve({"strategy": {"name": "aper-vpt-deep"}, "petl": {"length": 30}}).petl.options
    assert options == {"length": 30, "first_values": "zeros"}


# ids


def test_the_default_recipe_is_not_written_down():
    spec = resolve({"strategy": {"name": "dualprompt"}})
    assert "recipe" not in spec.strategy.options
    assert resolve({"strategy": {"name": "dualprompt", "recipe": "authors"}}).id == spec.id
    assert resolve({"strategy": {"name": "dualprompt", "recipe": "pilot"}}).id != spec.id


@pytest.mark.parametrize("name", ["fecam", "aper-vpt-deep", "slca", "dualprompt", "ranpac", "er"])
def test_a_written_spec_resolves_to_itself_in_every_recipe(name: str):
    for recipe in ("authors", *strategies.get(name).named_recipes):
        spec = resolve({"stream": {"name": R}, "strategy": {"name": name, "recipe": recipe}})
        assert resolve(spec.to_dict()).id == RunSpec.from_toml(spec.to_toml()).id == spec.id


def test_a_spec_from_before_an_option_came_keeps_its_id():
    before = resolve({"strategy": {"name": "fecam"}}).to_dict()  # in which no later option stands
    assert is_whole(strategies.get("fecam"), before["strategy"])
    before["backbone"] |= {"name": "slim-resnet18", "weights": "none"}  # where the recipe would say otherwise
    again = resolve(before)
    assert again.to_dict() == before


# the contract


def keys() -> list[Any]:
    found = []
    for name in strategies.names():
        strategy = strategies.get(name)
        tables = {"authors": strategy.recipes, **strategy.named_recipes}
        found += [
            pytest.param(name, key, options, id=f"{name}-{recipe}-{key}")
            for recipe, table in tables.items()
            for key, options in table.items()
        ]
    return found


@pytest.mark.parametrize(("name", "key", "options"), keys())
def test_every_recipe_names_what_there_is_and_gives_what_is_allowed(
    name: str, key: str, options: dict[str, Any]
):
    strategy, words = strategies.get(name), key.split("+")
    assert set(words) <= {*streams.names(), *petl.names(), *WORDS}
    assert len(words) == len(set(words))
    assert options, "an empty recipe"
    assert options.get("petl", "linear") in petl.names()
    chosen = {option: value for option, value in options.items() if option != "petl"}
    built = build(strategy, "strategy", chosen)
    assert set(chosen) <= set(option_types(strategy))
    assert {option: getattr(built, option) for option in chosen} == chosen
    assert place(key)


@pytest.mark.parametrize("name", strategies.names())
def test_modules_that_a_strategy_sets_are_there_and_take_its_options(name: str):
    for module, options in strategies.get(name).module_options.items():
        built = build(petl.get(module), "petl", options)
        assert {option: getattr(built, option) for option in options} == options


PRE_TRAINED = [
    *("aper", "coda-prompt", "confit", "dualprompt", "ease", "fecam"),
    *("inflora", "l2p", "lae", "ranpac", "slca", "slda"),
]


@pytest.mark.parametrize("name", PRE_TRAINED)
def test_a_strategys_words_say_whose_its_defaults_are(name: str):
    said = " ".join(strategies.registry.card(name).doc.split())
    assert "authors' own code" in said
    assert "validation_rate=0" in said
    for recipe in strategies.get(name).named_recipes:
        assert f"strategy.recipe={recipe}" in said
        assert recipe in ORIGINS


def test_every_strategy_with_a_named_recipe_is_among_those():
    assert {name for name in strategies.names() if strategies.get(name).named_recipes} <= set(PRE_TRAINED)


def test_what_is_shown_of_a_strategy_lists_its_recipes_by_place_and_whose_they_are():
    notes = [str(note) for note in describe("dualprompt")[0].notes]
    assert f"recipe authors, the default: {ORIGINS['authors']}" in notes
    assert f"on {R} the defaults are: epochs=50, base_rate=0.005, expert_length=20" in notes
    assert any(note.startswith("recipe pilot: LAMDA-PILOT") for note in notes)
    assert f"in recipe pilot on {R} the defaults are: epochs=10" in notes
    fecam = [str(note) for note in describe("fecam")[0].notes]
    assert any(note.startswith("on a convnet the defaults are: power=0.5") for note in fecam)
    aper = [str(note) for note in describe("aper")[0].notes]
    assert "with full the defaults are: epochs=5, batch_size=128" in aper
