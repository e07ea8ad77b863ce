"""Show that the table of all degrees on one backbone says what is so."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clbench import backbones, compress
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.cli.app import main
from clbench.compress.evit import EViT
from clbench.compress.survey import Surveyed, speedup, survey, texts
from clbench.compress.tome import ToMe

Opener = Callable[..., Backbone]


def surveyed(backbone: Backbone, *names: str) -> dict[str, Surveyed]:
    rows = {each.name: each for each in survey(backbone, names, rounds=1)}
    assert not any(site.tokens for site in backbone.sites.values())
    assert not backbone.compressed
    return rows


def test_a_degree_is_written_as_it_is_typed() -> None:
    assert texts("tome", ToMe().degrees(12))[2] == "tome:removed=8"
    assert texts("evit", EViT().degrees(12))[1] == "evit:keep=0.9"
    assert texts("file.py:Own", [ToMe()]) == ["file.py:Own"]


def test_tokens_and_products_are_those_that_can_be_counted_by_hand(transformer: Opener) -> None:
    rows = surveyed(transformer(), "evit")
    plain, half = rows["evit:keep=1.0"], rows["evit:keep=0.5"]
    patches, width = 16 * 3 * 8 * 8 * 32, 32
    block = 12 * 17 * width**2 + 2 * 17**2 * width
    assert plain.macs == 4 * block + patches
    assert (plain.tokens, plain.macs_share) == (17, 1)
    expected = patches + block
    for before, after in ((17, 10), (10, 7), (7, 5)):  # 8 of 16, 5 of 9 and 3 of 6 patches, and one fused
        attention = before * width  # of the class token, computed once more beside the fused one
        expected += 4 * before * width**2 + 2 * before**2 * width + attention + 8 * after * width**2
    assert half.tokens == 5
    assert half.macs == expected
    assert half.macs_share == pytest.approx(expected / plain.macs)
    assert half.speedup > 0


def test_each_degree_of_each_compressor_has_a_row(transformer: Opener) -> None:
    backbone = transformer()
    rows = surveyed(backbone, *compress.names())
    degrees = [degree for name in compress.names() for degree in compress.get(name)().degrees(4)]
    assert len(rows) == len(degrees)
    assert rows["tome:removed=0"].macs == rows["evit:keep=1.0"].macs
    assert rows["tome:removed=4"].tokens == degrees[-4].tokens_after(17, 1, 4)[-1]


def test_what_does_not_fit_is_told_once_with_the_reason() -> None:
    rows = surveyed(backbones.create("slim-resnet18", BackboneOptions(weights="none")), "tome")
    (row,) = rows.values()
    assert row.name == "tome"
    assert row.refusal.startswith("tome needs blocks that attend among a sequence of tokens")


def test_list_compress_with_a_backbone_prints_every_degree(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "new" / "degrees.csv"
    words = ["list", "compress", "--backbone", "vit-micro", "--set", "backbone.weights=none"]
    assert main([*words, "--csv", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "token compressors on vit-micro, 32 px"
    assert printed[1].split() == ["compressor", "tokens", "MACs", "of", "plain", "speed-up"]
    rows = {line.split()[0]: line.split() for line in printed}
    assert rows["tome:removed=0"][1:6] == ["17", "34.2", "M", "100.0", "%"]
    assert rows["evit:keep=0.5"][1:6] == ["5", "31.1", "M", "90.9", "%"]
    assert rows["evit:keep=0.5"][-1].endswith("x")
    assert "Do not fit" not in "\n".join(printed)
    table = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["name"] for row in table] == [name for name in rows if "=" in name]
    assert table[0]["refusal"] == ""


def test_where_nothing_fits_the_reason_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["list", "compress", "--backbone", "slim-resnet18", "--set", "backbone.weights=none"]
    assert main(words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "speed-up" not in printed
    assert "Do not fit this backbone · evit needs blocks that attend" in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["list", "quant", "--backbone", "vit-micro"], "clbench list petl, clbench list compress"),
        (["list", "compress", "--backbone", "vit-mikro"], "did you mean 'vit-micro'"),
        (["list", "compress", "--set", "petl.rank=3"], "only backbone.OPTION=VALUE"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1


@pytest.mark.slow
def test_half_of_the_tokens_saves_time_on_a_network_of_some_size(transformer: Opener) -> None:
    backbone = transformer(img_size=224, embed_dim=192, depth=4, num_heads=3)
    form = EViT(keep=0.3).compress(backbone)
    assert speedup(form, backbone, torch.randn(4, 3, 224, 224), rounds=5) > 1.1
