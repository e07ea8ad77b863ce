"""A report shows what its reader wishes: names, metrics, kinds of figures, each task, every group."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from clbench.errors import UserError
from clbench.evaluate.catalogue import find_all
from clbench.records.record import Record
from clbench.report import Wishes, group_runs, report
from clbench.report.forgetting import forgetting_headings, task_forgetting
from clbench.report.gallery import gallery
from clbench.report.labels import relabelled
from clbench.report.pictures import accuracy_curve
from clbench.report.plans import PLANS
from clbench.report.wide_table import WideTable

WriteRun = Callable[..., Record]


def rows_of(file: Path) -> list[list[str]]:
    return list(csv.reader(file.read_text("utf-8").splitlines()))


@pytest.fixture
def no_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clbench.report.exports.PLANS", [])
    monkeypatch.setattr("clbench.report.gallery.PLANS", [])


@pytest.mark.parametrize("key", ["lae-adapter", "id", "folder"])
def test_a_group_has_the_name_that_is_wished_for(key: str, write_run: WriteRun) -> None:
    record = write_run("lae")
    groups = group_runs([record, write_run("naive")])
    chosen = {"id": record.spec.id[:6], "folder": record.path.name}.get(key, key)
    assert [group.label for group in relabelled(groups, [f"{chosen}=Ours = new"])] == [
        "Ours = new",
        "naive-adapter",
    ]


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("lea-adapter=x", "did you mean 'lae-adapter'"),
        ("split=x", "begins runs of lae-adapter, naive-adapter"),
        ("lae-adapter=", "write ID=NAME"),
        ("lae-adapter=naive-adapter", "two groups"),
    ],
)
def test_a_name_for_nothing_is_refused(item: str, told: str, write_run: WriteRun) -> None:
    groups = group_runs([write_run("lae"), write_run("naive")])
    with pytest.raises(UserError, match=told):
        relabelled(groups, [item])


@pytest.mark.usefixtures("no_drawings")
def test_the_wished_metrics_are_the_columns_everywhere(write_run: WriteRun, tmp_path: Path) -> None:
    record = write_run("lae", accuracy=0.7)
    kept = {name: value for name, value in record.read_json("metrics.json").items() if name != "bwt"}
    record.write_json("metrics.json", kept)  # as an older version that did not know it
    wishes = Wishes(labels=("lae-adapter=Ours",), metrics=tuple(find_all("bwt, accuracy")), by_task=True)
    compared = report([record.path], tmp_path / "out", tmp_path / "page.html", wishes=wishes)
    markdown = (tmp_path / "out" / "comparison.md").read_text("utf-8").splitlines()
    assert markdown[0].startswith("| run | n | BWT (%) | accuracy A_T (%) | trainable")
    assert markdown[2].startswith("| Ours | 1 | 0.0 | 70.0 |")
    assert rows_of(tmp_path / "out" / "ranks.csv")[0][8:10] == ["bwt", "accuracy"]
    assert "BWT (\\%) & accuracy $A_T$ (\\%)" in (tmp_path / "out" / "comparison.tex").read_text("utf-8")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert re.search(r"BWT \(%\).*\n.*accuracy A_T", page)
    assert "masked accuracy" not in page
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(compared)
    console.file.close()
    assert "Forgetting of each task" in console.export_text()


def test_forgetting_of_a_task_is_its_best_before_the_end_minus_its_last(
    write_run: WriteRun, tmp_path: Path
) -> None:
    runs = [write_run("lae", seed) for seed in (0, 1)]
    matrices = [[[0.9, 0, 0], [0.95, 0.8, 0], [0.55, 0.7, 1]], [[0.9, 0, 0], [0.8, 0.6, 0], [0.7, 0.6, 1]]]
    for record, matrix in zip(runs, matrices, strict=True):
        record.write_json("matrix.json", {**record.read_json("matrix.json"), "accuracy": matrix})
    (group,) = group_runs(runs)
    first, second = task_forgetting(group)
    assert (first.learnt, first.best, first.last) == pytest.approx((0.9, 0.925, 0.625))
    assert (first.forgetting, first.std) == pytest.approx((0.3, 0.1 * np.sqrt(2)))  # 0.4 and 0.2
    assert second.forgetting == pytest.approx(0.05)
    assert forgetting_headings([group]) == ["1", "2"]


@pytest.mark.parametrize(("kinds", "starts"), [("pdf", [b"%PDF"]), ("png,SVG", [b"\x89PNG", b"<?xml"])])
def test_figures_are_of_the_wished_kinds(
    kinds: str, starts: list[bytes], write_run: WriteRun, tmp_path: Path
):
    record = write_run("lae")
    with pytest.MonkeyPatch.context() as patch:
        plans = [plan for plan in PLANS if plan.stem == "accuracy-curve"]
        patch.setattr("clbench.report.exports.PLANS", plans)
        files = report([record.path], tmp_path / "out", wishes=Wishes(figures=kinds)).files
    drawn = [file for file in files if file.stem == "accuracy-curve"]
    assert [file.read_bytes()[:5].startswith(start) for file, start in zip(drawn, starts, strict=True)]
    assert [file.suffix for file in drawn] == [f".{kind.lower()}" for kind in kinds.split(",")]


@pytest.mark.parametrize("kind", ["pdf", "svg"])
def test_a_vector_figure_has_no_date_and_is_the_same_again(
    kind: str, write_run: WriteRun, tmp_path: Path
) -> None:
    groups = group_runs([write_run("lae")])
    for name in ("one", "two"):
        accuracy_curve(groups).save(tmp_path / f"{name}.{kind}")
    assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


def test_a_page_holds_the_confusion_of_every_group(
    write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clbench.report.gallery.PLANS", [plan for plan in PLANS if plan.stem == "confusion"])
    groups = group_runs([write_run(name) for name in ("lae", "naive", "er")])
    shown, albums, left_out = gallery(groups)
    assert [picture.title for picture in shown] == ["Confusion: er-adapter"]
    (album,) = albums
    assert [picture.title for picture in album.pictures] == [
        "Confusion: lae-adapter",
        "Confusion: naive-adapter",
    ]
    assert not left_out


@pytest.mark.parametrize("width", [24, 40, 60, 80, 200])
def test_a_wide_table_goes_on_below_and_cuts_nothing(width: int) -> None:
    headings = ["n", *(f"long heading {number}" for number in range(8))]
    cells = [Text("3"), *(Text(f"{number}23,456.7±8.9") for number in range(8))]
    table = WideTable(
        "run", headings, [("a-name-that-is-rather-long-for-a-narrow-terminal", cells)], always=1
    )
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    console.file.close()
    text = console.export_text()
    assert "…" not in text
    assert all(cell.plain in text for cell in cells)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
