"""What is listed and shown is read off the components, and all of it is there."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from clbench import backbones
from clbench.cli.app import main
from clbench.cli.describing import describe
from clbench.cli.listing import REGISTRIES
from clbench.cli.options import comments, options, type_in_words


@pytest.fixture(autouse=True)
def _no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLBENCH_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path)


def test_everything_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from clbench.evaluate import METRICS

    assert main(["list"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    for names in (*(registry.names() for registry in REGISTRIES.values()), METRICS):
        assert set(names) <= listed


@pytest.mark.parametrize(
    "name", [*(name for registry in REGISTRIES.values() for name in registry.names()), "bwt"]
)
def test_every_name_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 0
    assert capsys.readouterr().out.startswith(f"{name}  (")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("adalog", "weights an even grid for each output"),
        ("adalog", "its probabilities AdaLog with scale 1"),
        ("taer", "lambda = number of old classes / number of new classes"),
    ],
)
def test_tables_and_formulas_keep_their_lines(
    name: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", name]) == 0
    assert line in [" ".join(shown.split()) for shown in capsys.readouterr().out.splitlines()]


def test_a_network_of_timms_is_shown_with_its_sites(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "vit_tiny_patch16_224"]) == 0
    printed = capsys.readouterr().out
    assert "5,524,416" in printed  # 5,717,416 less the head of 1,000 classes: 193,000
    assert "attn.qkv" in printed


def test_an_option_is_shown_with_its_type_default_and_comment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "lae-lora"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(row.startswith("ema_decay float >= 0, <= 1 0.9999 a: kept") for row in rows)
    assert "rank int >= 1 5" in rows


class Commented(BaseModel):
    one: int = 1  # on its line
    # fmt: off
    two: int = (
        2  # inside
    )  # and after
    # fmt: on
    three: str = "# no comment"
    # of the next one
    four: int = 4


def test_comments_are_those_on_a_fields_own_lines() -> None:
    assert comments(Commented) == {"one": "on its line", "two": "inside and after", "three": "", "four": ""}


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "int"),
        (str, "text"),
        (bool, "true | false"),
        (Literal["a", "b"], "a | b"),
        (int | None, "int | none"),
        (Annotated[float, Field(ge=0, lt=1)], "float >= 0, < 1"),
    ],
)
def test_types_are_put_in_words(hint: object, words: str) -> None:
    assert type_in_words(hint) == words


def test_every_option_that_is_not_plain_has_a_comment() -> None:
    plain = {"optimizer", "learning_rate", "weight_decay", "rank"}
    plug_in_kinds = [registry for kind, registry in REGISTRIES.items() if kind != "backbones"]
    components = [registry.get(name) for registry in plug_in_kinds for name in registry.names()]
    components.append(backbones.BackboneOptions)
    silent = {each.name for component in components for each in options(component) if not each.comment}
    assert silent <= plain


def test_the_doctor_finds_what_is_essential(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for word in ("python", "torch", "vit-micro", "split-cifar100", "cache", "cpu"):
        assert word in printed
    monkeypatch.setattr("clbench.cli.doctor.package_version", lambda name: None if name == "timm" else "1")
    assert main(["doctor"]) == 1
    assert "pip install timm" in capsys.readouterr().out


def test_the_weights_that_the_doctor_looks_for_ship() -> None:
    assert resources.files("clbench.backbones").joinpath("weights", "vit-micro.safetensors").is_file()


def test_a_class_in_a_file_is_shown_with_its_own_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "shown.py"
    file.write_text(
        '"""Learn in a way of my own."""\n\nfrom dataclasses import dataclass\n\n'
        "from clbench.strategies import Strategy\n\n\n@dataclass\nclass Mine(Strategy):\n"
        "    sharpness: float = 4.0  # multiplies the logits\n"
    )
    assert main(["show", f"{file}:Mine"]) == 0
    shown = capsys.readouterr().out
    assert "Learn in a way of my own" in shown
    assert "multiplies the logits" in shown
    assert "Annotated" not in shown
    assert "its scores are no probabilities: calibration is not known" in shown


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("simplecil", "its scores are no probabilities: calibration is not known"),
        ("er", "its scores are probabilities: calibration is measured"),
        ("lae", "its scores are probabilities if ensemble is mean or evidential: the larger of two"),
        ("generative", "its scores are probabilities if classifier is lda: a cosine is none"),
    ],
)
def test_it_is_said_whether_scores_are_probabilities(name: str, words: str) -> None:
    assert any(str(note).startswith(words) for note in describe(name)[0].notes)


@pytest.mark.parametrize("words", [["average-accuracy"], ["metric", "average-accuracy"]])
def test_a_former_name_shows_what_it_is_called_now(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", *words]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("average-incremental-accuracy  (metric)")
    assert re.search(r"called before +average-accuracy *\n", shown)
