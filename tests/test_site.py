"""Build the site of the documentation strictly, and hold its pages against what they are made from."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from clbench.cli.describing import describe
from clbench.cli.listing import REGISTRIES
from clbench.evaluate import METRICS

pytestmark = [
    pytest.mark.slow,  # builds some two hundred pages
    pytest.mark.skipif(
        importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None,
        reason="needs mkdocs: pip install -e '.[docs]'",
    ),
]
NAMES = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]
WORDS_OF_NO_PAGE = ("mailto:", "data:", "javascript:")


class Page(HTMLParser):
    """What a page links to, loads, and has anchors and rows of tables for."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.rows: list[list[str]] = []
        self.text = ""
        self._in_cell = False
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("prev", "next", "canonical"):
            self.loaded.append(values["href"])
        elif "src" in values:
            self.loaded.append(values["src"])
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        self._in_cell = self._in_cell or tag == "td"

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def site(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a site that was built without a warning."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page, but the one for addresses that lead nowhere, which knows no place to link from."""
    return {file: Page(file) for file in sorted(site.rglob("*.html")) if file.name != "404.html"}


def test_every_name_has_a_page_and_is_in_the_table_of_its_kind(site: Path, pages: dict[Path, Page]) -> None:
    for kind, name in NAMES:
        folder = site / "methods" / kind
        assert folder / name / "index.html" in pages
        assert f"{name}/" in pages[folder / "index.html"].links


def test_every_metric_has_its_place_with_its_formula(site: Path, pages: dict[Path, Page]) -> None:
    for name, metric in METRICS.items():
        file = site / "metrics" / metric.family / "index.html"
        assert name in pages[file].anchors
        assert ["Averaging", " ".join(metric.averaging.split())] in pages[file].rows
        assert f"{metric.family}/#{name}" in pages[site / "metrics" / "index.html"].links


def test_a_page_says_of_options_what_show_says(site: Path, pages: dict[Path, Page]) -> None:
    for kind, name in NAMES:
        (about,) = describe(name, kind)
        said = [
            [each.name, each.type, each.default, each.comment.replace("``", "")] for each in about.options
        ]
        rows = pages[site / "methods" / kind / name / "index.html"].rows
        assert [row for row in rows if len(row) == 4] == [[" ".join(c.split()) for c in row] for row in said]


def test_a_page_keeps_every_word_of_the_docstrings(site: Path, pages: dict[Path, Page]) -> None:
    def words(text: str) -> set[str]:  # a heading has lost its colon, and a sentence begins after it
        return {word.rstrip(":").casefold() for word in text.replace("arXiv:", "arXiv ").split()}

    for kind, name in NAMES:
        (about,) = describe(name, kind)
        page = pages[site / "methods" / kind / name / "index.html"]
        told = "\n".join(about.paragraphs).replace("``", "")
        assert words(told) - words(page.text) <= {"-"}, name


def test_links_inside_the_site_lead_to_a_page_and_a_place_in_it(site: Path, pages: dict[Path, Page]) -> None:
    for file, page in pages.items():
        for link in page.links:
            if re.match(r"https?://", link) or link.startswith(WORDS_OF_NO_PAGE):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (file.parent / path).resolve() if path else file
            target = target / "index.html" if target.is_dir() else target
            assert target.is_relative_to(site), f"{file}: {link}"
            assert target.is_file(), f"{file}: {link}"
            if anchor and target in pages:
                assert anchor in pages[target].anchors, f"{file}: {link}"


def test_no_page_loads_anything_from_the_network(site: Path, pages: dict[Path, Page]) -> None:
    for file, page in pages.items():
        assert not [each for each in page.loaded if re.match(r"(https?:)?//", each)], file
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text("utf-8")), sheet


def test_no_page_names_a_folder_of_the_machine_that_built_it(checkout: Path, pages: dict[Path, Page]) -> None:
    for file in pages:
        assert str(checkout) not in file.read_text("utf-8")
