"""A spec is complete, survives being written down, and has an id that only an equal one has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from clbench import strategies
from clbench.options import SpecError, build, complete
from clbench.outside.reading import parse_toml
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec, read_toml


@dataclass
class Options:
    """What a component might be set to."""

    size: Annotated[int, Field(ge=1)] = 2
    rate: float = 0.5
    tasks: str = "10"
    is_fast: bool = False
    codes: Literal[1, 8] = 8


@pytest.fixture
def default() -> RunSpec:
    return resolve({})


def test_nothing_given_is_the_embedded_default(default: RunSpec) -> None:
    parts = (default.stream, default.strategy, default.petl, default.backbone)
    assert [part.name for part in parts] == ["split-digits", "lae", "adapter", "vit-micro"]
    assert default.run.seed == 0


def test_every_option_of_every_component_is_in_the_spec(default: RunSpec) -> None:
    assert default.strategy.options["ema_decay"] == 0.9999
    assert default.strategy.options["batch_size"] == 24
    assert default.petl.options == {"rank": 5, "num_blocks": 0}
    assert set(default.backbone.options) >= {"weights", "image_size"}
    assert set(default.stream.options) >= {"tasks", "order", "validation_rate"}


def test_a_spec_survives_toml(default: RunSpec) -> None:
    again = RunSpec.from_toml(default.to_toml())
    assert again == default
    assert again.id == default.id


def test_what_toml_holds_resolves_to_the_same_spec(default: RunSpec) -> None:
    assert resolve(default.to_dict()).id == default.id


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [("run", "seed", 1), ("strategy", "epochs", 6), ("petl", "rank", 6), ("stream", "order", "1993")],
)
def test_a_changed_option_changes_the_id(default: RunSpec, section: str, option: str, value: object) -> None:
    assert resolve({section: {option: value}}).id != default.id


def test_the_id_does_not_depend_on_how_a_value_is_spelled() -> None:
    spellings: list[Any] = [1, 1.0, "1", "1.0", "1e0"]
    assert len({resolve({"strategy": {"learning_rate": value}}).id for value in spellings}) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("tasks", "2,4,4"), ("order", "2,0,1"), ("order", "ant, bee"), ("order", "file:my order.txt")],
)
def test_lists_of_a_stream_survive_toml(option: str, value: str) -> None:
    spec = resolve({"stream": {option: value}})
    again = RunSpec.from_toml(spec.to_toml())
    assert again.stream.options[option] == value
    assert again.id == spec.id
    assert resolve(again.to_dict()).id == spec.id


@pytest.mark.parametrize(("before", "after"), [("[run]", "[run]\nsped = 1"), ("seed = 0", "seed = []")])
def test_toml_of_no_spec_is_one_line(default: RunSpec, before: str, after: str) -> None:
    text = default.to_toml()
    assert before in text
    with pytest.raises(SpecError, match="no spec of a run") as refusal:
        RunSpec.from_toml(text.replace(before, after))
    assert "\n" not in str(refusal.value)


def test_nested_toml_is_one_line() -> None:
    for text in ("a = " + "[" * 5000 + "]" * 5000, "a = " + "9" * 5000):
        with pytest.raises(SpecError, match="not valid TOML") as refusal:
            read_toml(text)
        assert "\n" not in str(refusal.value)


def test_a_stream_has_defaults_of_its_own_in_a_strategy() -> None:
    recipe = strategies.get("lae").recipes["split-imagenet-r"]
    spec = resolve({"stream": {"name": "split-imagenet-r"}})
    assert recipe["epochs"] == spec.strategy.options["epochs"] == 50


def test_an_option_wins_over_a_streams_defaults() -> None:
    spec = resolve({"stream": {"name": "split-imagenet-r"}, "strategy": {"epochs": 7}})
    assert spec.strategy.options["epochs"] == 7
    assert spec.strategy.options["frozen_epochs"] == 30


@pytest.mark.parametrize(
    ("sections", "strategy", "module"),
    [
        ({"strategy": {"name": "lae-lora"}}, "lae", "lora"),
        ({"petl": {"name": "prefix"}}, "lae", "prefix"),
        ({"strategy": {"name": "lae-lora"}, "petl": {"name": "lora"}}, "lae", "lora"),
        ({"strategy": {"name": "naive"}}, "naive", "adapter"),
    ],
)
def test_strategy_and_module_are_named_apart_or_together(
    sections: dict[str, dict[str, str]], strategy: str, module: str
) -> None:
    spec = resolve(sections)
    assert (spec.strategy.name, spec.petl.name) == (strategy, module)


def test_a_module_named_twice_is_named_the_same() -> None:
    with pytest.raises(SpecError, match="contradict"):
        resolve({"strategy": {"name": "lae-lora"}, "petl": {"name": "adapter"}})


def test_an_argument_of_a_stream_is_an_option() -> None:
    stream = resolve({"stream": {"name": "npz:images.npz"}}).stream
    assert stream.name == "npz"
    assert stream.options["file"] == "images.npz"


@pytest.mark.parametrize(
    ("given", "option", "value"),
    [
        ("3", "size", 3),
        ("0.25", "rate", 0.25),
        (1, "rate", 1.0),
        (10, "tasks", "10"),
        ("true", "is_fast", True),
        ("1", "codes", 1),
        (8, "codes", 8),
    ],
)
def test_text_and_numbers_become_what_an_option_is(given: object, option: str, value: object) -> None:
    built = vars(build(Options, "stream", {option: given}))[option]
    assert built == value
    assert type(built) is type(value)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("size", 0, r"stream.size: 0 is not allowed: input should be greater than or equal to 1"),
        ("size", "two", r"stream.size: 'two'"),
        ("size", 1.5, r"stream.size: 1.5"),
        ("rate", "nan", r"stream.rate: 'nan' is not allowed: input should be a finite number"),
        ("is_fast", "perhaps", r"stream.is_fast: 'perhaps'"),
        ("codes", "2", r"stream.codes: '2' is not allowed: input should be 1 or 8"),
        ("tasks", [10], r"stream.tasks: \[10\]"),
        ("sise", 3, r"stream has no option 'sise'; did you mean 'size'\? \(allowed: size, rate,"),
    ],
)
def test_what_an_option_cannot_be_is_told(option: str, value: object, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        build(Options, "stream", {option: value})


def test_completing_fills_in_what_was_not_given() -> None:
    assert complete(Options, "stream", {"size": 3}) == {
        "size": 3,
        "rate": 0.5,
        "tasks": "10",
        "is_fast": False,
        "codes": 8,
    }


@pytest.mark.parametrize(
    ("named", "backbone", "rate"),
    [
        ({"name": "naive-full"}, {}, 1e-4),  # the rate of a small module would destroy what it knows
        ({"name": "naive-full", "learning_rate": 0.5}, {}, 0.5),
        ({"name": "naive-adapter"}, {}, 0.0028125),
        ({"name": "slca-full"}, {}, 0.01),  # its own
        ({"name": "naive-full"}, {"weights": "none"}, 0.0028125),
        ({"name": "naive-full"}, {"name": "slim-resnet18"}, 0.0028125),  # has random weights
    ],
)
def test_a_pretrained_backbone_is_tuned_with_a_rate_that_suits_it(named, backbone, rate):
    spec = resolve({"strategy": named, "backbone": backbone})
    assert spec.strategy.options["learning_rate"] == rate


def test_a_number_that_equals_the_default_is_the_default() -> None:
    """A float option may have a whole number for its default: read back, it is no other."""
    spec = resolve({"strategy": {"name": "naive-peft.loha"}, "run": {"device": "cpu"}})
    assert "alpha = 8\n" in spec.to_toml()
    assert resolve(parse_toml(spec.to_toml())) == spec
