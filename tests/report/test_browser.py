"""Show the page of a comparison in a real browser: it opens, sorts, filters, fits, and asks for nothing."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clbench.records.record import Record
from clbench.report.groups import group_runs
from clbench.report.page import page_html

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ACCURACY = 3  # the column of accuracy A_T, counted from 1


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A headless Chromium that logs what it asks for and what goes wrong."""
    pytest.importorskip("selenium", reason="needs selenium: pip install 'clbench[dev]'")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs a browser: chromium and chromedriver, as in Debian's chromium-driver")
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


@pytest.fixture
def page(write_run: Callable[..., Record], tmp_path: Path) -> Path:
    """The page of three groups: two seeds of one, and one of unknown accuracy that took 900 GFLOP."""
    records = [write_run("er", 0, 0.4), write_run("er", 1, 0.6), write_run("lae", 0, 0.9), write_run("naive")]
    records[-1].write_json("metrics.json", {**records[-1].read_json("metrics.json"), "accuracy": None})
    records[-1].write_json("costs.json", {**records[-1].read_json("costs.json"), "flops": {"train": 9e11}})
    file = tmp_path / "page.html"
    file.write_text(
        page_html(group_runs(records), ["a note"], ["one seed only: lae-adapter"]), encoding="utf-8"
    )
    return file


def rows(browser: Chrome) -> list[str]:
    """The labels of the rows that are seen, from the top."""
    return [
        cell.text
        for cell in browser.find_elements("css selector", "table.sortable tbody th")
        if cell.is_displayed()
    ]


def log(browser: Chrome, kind: str) -> list[dict[str, Any]]:
    """What the browser has logged since this was last asked for."""
    entries: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]  # selenium's
    return entries


def set_width(browser: Chrome, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def is_blank(png: bytes) -> bool:
    """Whether a PNG is of one colour: all its rows hold the same bytes then."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    parts, at = [], 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        parts += [png[at + 8 : at + 8 + length]] if kind == b"IDAT" else []
        at += length + 12
    return len(set(zlib.decompress(b"".join(parts)))) < 10  # filter types, and the bytes of one colour


def test_page_sorts_filters_and_asks_for_nothing(browser: Chrome, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    assert browser.title == "split-digits · clbench report"
    assert browser.find_element("tag name", "h1").text == "split-digits"
    assert browser.find_element("css selector", ".warnings li").text == "one seed only: lae-adapter"

    assert rows(browser) == ["lae-adapter", "er-adapter", "naive-adapter"]  # as written: the best first
    heading = browser.find_element("css selector", f"table.sortable thead th:nth-child({ACCURACY})")
    assert heading.get_attribute("aria-sort") == "descending"
    heading.find_element("tag name", "button").click()
    assert rows(browser) == ["er-adapter", "lae-adapter", "naive-adapter"]  # what is not known stays last
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.find_element("tag name", "button").send_keys(Keys.ENTER)
    assert rows(browser) == ["lae-adapter", "er-adapter", "naive-adapter"]
    assert heading.get_attribute("aria-sort") == "descending"
    browser.find_element("xpath", "//table[@class='sortable']//button[starts-with(., 'training')]").click()
    assert rows(browser) == ["naive-adapter", "er-adapter", "lae-adapter"]  # 900 GFLOP, 1.50 and 1.90 TFLOP
    browser.find_element("css selector", "table.sortable thead button").click()
    assert rows(browser) == ["er-adapter", "lae-adapter", "naive-adapter"]  # by name
    assert heading.get_attribute("aria-sort") is None

    field = browser.find_element("css selector", "input[type=search]")
    field.send_keys("LAE adapter")
    assert rows(browser) == ["lae-adapter"]
    assert browser.find_element("tag name", "output").text == "1 of 3 rows"
    field.send_keys(Keys.CONTROL, "a", Keys.BACKSPACE)
    assert len(rows(browser)) == 3

    events = [json.loads(entry["message"])["message"] for entry in log(browser, "performance")]
    requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in requests if each["documentURL"] == page.as_uri()]
    assert page.as_uri() in asked
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert log(browser, "browser") == []


@pytest.mark.parametrize("width", [1400, 400])
def test_page_fits_the_screen(browser: Chrome, page: Path, tmp_path: Path, width: int) -> None:
    set_width(browser, width)
    browser.get(page.as_uri())
    root = "document.documentElement"
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    browser.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    sizes = browser.execute_script(
        "return [...document.images].map((each) => [each.naturalWidth, each.width])"
    )
    assert all(natural > 0 and 0 < shown <= width for natural, shown in sizes)
    file = tmp_path / "page.png"
    assert browser.save_screenshot(str(file))
    assert not is_blank(file.read_bytes())
