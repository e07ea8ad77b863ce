"""Show that the table of all modules on one backbone says what is so."""

from __future__ import annotations

import pytest

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.cli.app import main
from clbench.petl.survey import survey


def surveyed(*names: str, backbone: str = "vit-micro"):
    network = backbones.create(backbone, BackboneOptions(weights="none"))
    facts = {each.name: each for each in survey(network, names, rounds=1)}
    assert not any(site.attached for site in network.sites.values())
    return facts


def test_survey_counts_what_can_be_counted_by_hand() -> None:
    facts = surveyed("linear", "lora", "prefix")
    lora = facts["lora"]  # 2 of 4 blocks of width 128, rank 5
    assert lora.parameters == 2 * (4 * 5 * 128 + 2)
    assert lora.stored_bytes == lora.packed_bytes == 4 * lora.parameters
    assert lora.mergeable and lora.identity_at_start  # noqa: PT018
    assert not facts["prefix"].identity_at_start
    assert facts["linear"].parameters == facts["linear"].added_flops == 0


def test_added_flops_are_those_of_the_modules_products() -> None:
    facts = surveyed("lora")
    tokens, width, rank = 17, 128, 5
    linear = 8 * width * width * tokens  # multiply-adds of qkv, proj, fc1 and fc2 of a block
    attention = 2 * tokens * tokens * width
    # convolutions of 3 x 3 pixels in front: outputs, and channels before and after
    stem = [(1024, 3, 32), (256, 32, 64), (64, 64, 128), (64, 128, 128), (16, 128, 256)]
    patches = sum(9 * outputs * before * after for outputs, before, after in stem) + 16 * 256 * width
    base = 4 * (linear + attention) + patches
    added = 2 * 2 * 2 * rank * width * tokens
    assert facts["lora"].added_flops == pytest.approx(added / base, rel=1e-6)


def test_a_module_that_does_not_fit_is_listed_with_the_reason() -> None:
    (row,) = surveyed("lora", backbone="slim-resnet18").values()
    assert "no site 'attn.qkv'" in row.refusal


def test_a_quantised_module_is_stored_in_fewer_bytes_than_it_is_trained_in() -> None:
    row = surveyed("bi-adapter")["bi-adapter"]
    assert 20 * row.packed_bytes < row.stored_bytes == 4 * row.parameters


def test_list_petl_with_a_backbone_prints_every_module(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clbench.petl.names", lambda: ["lora", "ssf", "linear"])
    assert main(["list", "petl", "--backbone", "slim-resnet18", "--set", "backbone.weights=none"]) == 0
    printed = capsys.readouterr().out
    assert "slim-resnet18, 32 px, 1.09 M parameters" in printed
    assert "Do not fit this backbone" in printed
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.strip()}
    assert rows["linear"][1] == "0"
    assert "· lora: block[0] of this backbone has no site 'attn.qkv'" in printed
    assert {"ssf", "linear"} <= set(rows)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["list", "--backbone", "vit-micro"], "go with: clbench list petl"),
        (["list", "petl", "--backbone", "vit-mikro"], "did you mean 'vit-micro'"),
        (["list", "petl", "--set", "strategy.epochs=3"], "only backbone.OPTION=VALUE"),
        (["list", "petl", "--set", "backbone.size=3"], "no option 'size'"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1
