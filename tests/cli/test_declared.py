"""What is read off the sources of components is what their classes say."""

from __future__ import annotations

from typing import Any

import pytest

from clbench.backbones.known import timm_names
from clbench.cli.arguments import typed
from clbench.cli.declared import declared_options
from clbench.cli.listing import REGISTRIES
from clbench.cli.options import type_in_words
from clbench.options import option_types
from clbench.registry import Registry

READ_LATER = {"bi-adapter", "bi-lora", "repadapter"}  # each has a type that only its code tells


@pytest.mark.parametrize("registry", [REGISTRIES[kind] for kind in REGISTRIES if kind != "backbones"])
def test_the_options_of_every_name_are_known_without_its_code(registry: Registry[Any]) -> None:
    for name in registry.names():
        declared, real = declared_options(registry, name), option_types(registry.get(name))
        assert declared is not None
        assert set(declared) == set(real)
        unread = {option for option, hint in declared.items() if hint is Any}
        assert not unread or name in READ_LATER, (name, unread)
        for option in set(real) - unread:
            assert type_in_words(declared[option]) == type_in_words(real[option]), (name, option)


def test_timms_names_are_known_without_timm() -> None:
    import timm

    assert timm_names() == set(timm.list_models())


@pytest.mark.parametrize(
    ("option", "text", "names"),
    [
        ("strategy", "lae-lora,er , naive", ["lae-lora", "er-adapter", "naive-adapter"]),
        ("stream", "folder:a,b/c,split-digits", ["folder", "split-digits"]),
        ("stream", "folder:a,b", ["folder"]),
        ("backbone", "vit-micro,resnet18.a1_in1k", ["vit-micro", "resnet18.a1_in1k"]),
        ("petl", "lora,adapter", ["lae-lora", "lae-adapter"]),
    ],
)
def test_commas_separate_names_and_stay_in_paths(option: str, text: str, names: list[str]) -> None:
    runs = typed(config=None, options={option: text}, settings=[])
    shown = [
        getattr(run.named, option)
        if option in ("stream", "backbone")
        else f"{run.named.strategy}-{run.named.petl}"
        for run in runs
    ]
    assert shown == names


def test_a_path_keeps_its_commas() -> None:
    first, second = typed(config=None, options={"stream": "folder:a,b/c,npz:x,y.npz"}, settings=[])
    assert first.sections["stream"]["name"] == "folder:a,b/c"
    assert second.sections["stream"]["name"] == "npz:x,y.npz"


def test_every_combination_is_a_run_strategy_by_strategy() -> None:
    options = {"strategy": "naive,er", "petl": "lora,ssf", "seed": "0,1"}
    named = [str(run.named) for run in typed(config=None, options=options, settings=[])]
    assert named[:3] == [
        "split-digits · naive · vit-micro · lora · seed 0",
        "split-digits · naive · vit-micro · lora · seed 1",
        "split-digits · naive · vit-micro · ssf · seed 0",
    ]
    assert len(named) == 8
