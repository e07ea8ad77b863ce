"""Show that the page of a comparison says what the records say, needs no network and escapes everything."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import pytest

from clbench.files import WriteError
from clbench.records.record import Record
from clbench.report import gallery, report
from clbench.report.groups import Group, group_runs
from clbench.report.page import page_html
from clbench.report.pictures import NoPictureError, Picture
from clbench.report.plans import ALL, BEST, Plan

WriteRun = Callable[..., Record]
DAY = date(2025, 1, 2)


class Page(HTMLParser):
    """Elements with their attributes, and the text that each starts with, in the order of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []  # of each element, up to where the next one starts or it ends
        self.words: list[str] = []  # all
        self.is_inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        self.texts.append("")
        self.is_inside = True

    def handle_endtag(self, tag: str) -> None:
        self.is_inside = False

    def handle_data(self, data: str) -> None:
        self.words += data.split()
        if self.is_inside:
            self.texts[-1] += data

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        return [
            (attributes, text)
            for (name, attributes), text in zip(self.elements, self.texts, strict=True)
            if name == tag
        ]


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PLANS", ())


def page_of(records: Sequence[Record], warnings: Sequence[str] = (), notes: Sequence[str] = ()) -> Page:
    return Page(page_html(group_runs(records), notes, warnings, DAY))


def text_of(page: Page) -> str:
    return " ".join(page.words)


@pytest.mark.usefixtures("no_pictures")
def test_summary_counts_and_names_the_best_with_its_interval(write_run: WriteRun) -> None:
    records = [write_run("lae", seed, value) for seed, value in enumerate((0.5, 0.6, 0.7))]
    text = text_of(page_of([*records, write_run("naive", 0, 0.2)]))
    assert "4 runs, 2 groups, 3 seeds, 1 stream; vit-micro." in text
    # t of 2 degrees of freedom is 4.303; 60 ± 4.303 * 10 / sqrt(3)
    assert "lae-adapter, 60.0 % (95 % interval 35.2 to 84.8, n = 3)" in text
    assert "Written by clbench" in text
    assert "2025-01-02" in text


@pytest.mark.usefixtures("no_pictures")
def test_one_seed_has_no_interval(write_run: WriteRun) -> None:
    text = text_of(page_of([write_run("lae")]))
    assert "1 run, 1 group, 1 seed, 1 stream" in text
    assert "lae-adapter, 50.0 % (one seed, so no interval)" in text


@pytest.mark.usefixtures("no_pictures")
def test_warnings_come_before_everything_else_a_line_each(write_run: WriteRun) -> None:
    page = page_of([write_run("lae")], warnings=["one seed only", "selected on test data"], notes=["a note"])
    lines = [text for _, text in page.all("li")]
    assert lines == ["one seed only", "selected on test data", "a note"]
    kinds = [tag for tag, _ in page.elements]
    assert kinds.index("li") < kinds.index("table")


@pytest.mark.usefixtures("no_pictures")
def test_cells_sort_by_value_and_the_best_is_marked(write_run: WriteRun) -> None:
    page = page_of([write_run("naive", 0, 0.25), write_run("lae", 0, 0.25), write_run("lae", 1, 0.75)])
    names = [text for attributes, text in page.all("th") if attributes["scope"] == "row"][:2]
    assert names == ["lae-adapter", "naive-adapter"]  # the best first
    cells = page.all("td")
    assert ({"data-value": "0.5", "class": "best"}, "50.0 ± 35.4") in cells
    assert ({"data-value": "0.25"}, "25.0") in cells
    assert ({"data-value": "2"}, "2") in cells
    (order,) = [attributes["aria-sort"] for attributes, _ in page.all("th") if "aria-sort" in attributes]
    assert order == "descending"


@pytest.mark.usefixtures("no_pictures")
def test_what_is_not_known_has_no_value(write_run: WriteRun) -> None:
    record = write_run("lae")
    metrics = record.read_json("metrics.json")
    record.write_json("metrics.json", {**metrics, "ece": None})
    assert ({"data-value": ""}, "n/a") in page_of([record]).all("td")


@pytest.mark.usefixtures("no_pictures")
def test_the_best_is_marked_on_each_stream(write_run: WriteRun) -> None:
    values = {("split-digits", "lae"): 0.5, ("split-digits", "er"): 0.4}
    values |= {("split-mnist", "lae"): 0.9, ("split-mnist", "er"): 0.8}
    page = page_of([write_run(name, 0, value, stream) for (stream, name), value in values.items()])
    best = {text for attributes, text in page.all("td") if attributes.get("class") == "best"}
    assert {"50.0", "90.0"} <= best
    assert not {"40.0", "80.0"} & best
    assert not [attributes for attributes, _ in page.all("th") if "aria-sort" in attributes]


@pytest.mark.usefixtures("no_pictures")
def test_splits_of_one_stream_are_told_apart_by_their_hashes(write_run: WriteRun) -> None:
    records = [write_run("lae"), write_run("er")]
    for record, digest in zip(records, ("a" * 64, "b" * 64), strict=True):
        record.write_json("hashes.json", {**record.read_json("hashes.json"), "stream": digest})
    text = text_of(page_of(records))
    assert "Pictures of split-digits aaaaaaaa" in text
    assert "Pictures of split-digits bbbbbbbb" in text


@pytest.mark.usefixtures("no_pictures")
def test_paired_tests_of_common_seeds_are_listed(write_run: WriteRun) -> None:
    records = [write_run("lae", seed, value) for seed, value in enumerate((0.7, 0.8, 0.9))]
    records += [write_run("naive", seed, value) for seed, value in enumerate((0.5, 0.7, 0.7))]
    text = text_of(page_of(records))
    # differences 0.2, 0.1, 0.2: mean 16.7 points, t = 5, two degrees of freedom
    assert "lae-adapter naive-adapter 16.7 2.3 to 31.0 3 0.038 0.038" in text


@pytest.mark.usefixtures("no_pictures")
def test_each_run_has_command_hashes_and_versions(write_run: WriteRun) -> None:
    page = page_of([write_run("lae", 3)])
    assert page.all("pre") == [({"tabindex": "0"}, "clbench run --strategy lae --seed 3")]
    assert ({"title": "w" * 64}, "w" * 12) in page.all("code")
    assert "Python 3.10.1, torch 2.4.0" in text_of(page)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_from_python_code_has_the_command_that_repeats_it(write_run: WriteRun) -> None:
    record = write_run("lae")
    record.write_text("command.txt", "\n")
    (_, command) = page_of([record]).all("pre")[0]
    assert command == f"clbench run --config {record.path / 'spec.toml'}"


def test_everything_from_a_record_is_escaped(write_run: WriteRun, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = "\"'><script>alert(1)</script>"

    def refuse(groups: Sequence[Group]) -> Picture:
        raise NoPictureError(attack)

    monkeypatch.setattr(gallery, "PLANS", (Plan("accuracy", "Accuracy", ALL, refuse),))
    record = write_run("lae", note=attack)
    record.write_text("command.txt", attack)
    record.write_json("hashes.json", {"stream": attack, "weights": attack, "strategy_source": "x"})
    record.write_json("environment.json", {"python": attack, "packages": {attack: attack}})
    html = page_html(group_runs([record]), [attack], [attack], DAY)
    assert html.count("<script>") == 1  # the page's own
    assert "alert(1)" not in Page(html).all("script")[0][1]
    assert html.count("&lt;script&gt;alert(1)") >= 8


def test_page_loads_nothing_and_its_policy_allows_no_other_script(write_run: WriteRun) -> None:
    page = page_of([write_run("lae", seed, 0.5) for seed in (0, 1)])
    images = page.all("img")
    assert len(images) >= 3
    for attributes, _ in images:
        data = base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"))
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert attributes["alt"].endswith("of lae-adapter")
    links = [value for _, found in page.elements for name, value in found.items() if name in ("href", "src")]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    policy = next(found["content"] for found, _ in page.all("meta") if "http-equiv" in found)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        ((_, text),) = page.all(tag)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
        assert not re.search(r"https?:|url\(|@import", text)


def test_pictures_show_the_best_and_words_say_what_is_left_out(
    write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []

    def refuse(groups: Sequence[Group]) -> Picture:
        drawn.append([group.label for group in groups])
        raise NoPictureError("no picture of anything: nothing was kept")

    plans = [Plan("accuracy", "Accuracy", num, refuse) for num in (BEST, ALL)]
    monkeypatch.setattr(gallery, "PLANS", plans)
    records = [write_run("lae", 0, number / 20, note=f"n{number:02}") for number in range(13)]
    text = text_of(page_of(records))
    assert [len(labels) for labels in drawn] == [12, 13]
    assert drawn[0][0] == "note=n12"
    assert "note=n00" not in drawn[0]
    assert "the 12 most accurate of 13 groups" in text
    assert "Not drawn: accuracy: no picture of anything: nothing was kept." in text


@pytest.mark.usefixtures("no_pictures")
def test_report_writes_the_page_where_it_is_told(write_run: WriteRun, tmp_path: Path) -> None:
    folder = write_run("lae").path.parent
    target = tmp_path / "new" / "page.html"
    assert report([folder], None, html=target).files == [target]
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [file.name for file in target.parent.iterdir()] == ["page.html"]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", ["", "folder", "page.html/page.html"])
def test_a_page_that_cannot_be_written_is_an_error_in_one_line(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    runs = write_run("lae").path.parent
    (tmp_path / "folder").mkdir()
    (tmp_path / "page.html").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WriteError, match=r"cannot write [^\n]*$"):
        report([runs], None, html=Path(name))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "page.html", "runs"]
