"""Whatever a stranger's record holds, it shows itself and does nothing where a report prints or writes it."""

from __future__ import annotations

import csv
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from clbench.cli.app import main
from clbench.outside.visible import shell_word, visible
from clbench.records.record import Record

HOSTILE = (
    "=1+2\x1b]0;title\x07\x1b[31m\n| **x** |\r<script>alert(1)</script>"
    '\u202egnp.exe\u2028$x_1$ \\input{/etc/passwd} "'
)


@pytest.fixture
def hostile(make_run: Callable[..., Record], tmp_path: Path) -> Path:
    """A folder with two runs in which every text that a report reads is as bad as can be."""
    runs = tmp_path / "runs"
    for seed in (0, 1):
        record = make_run(runs, HOSTILE, seed, note=HOSTILE, stream=f"folder:{HOSTILE}", version=HOSTILE)
        record.write_text("command.txt", f"clbench run {HOSTILE}\n")
        names = [HOSTILE] * 4
        record.write_json("matrix.json", {**record.read_json("matrix.json"), "class_names": names})
        record.write_json("metrics.json", {**record.read_json("metrics.json"), HOSTILE: 0.5})
        record.write_json("hashes.json", dict.fromkeys(record.read_json("hashes.json"), HOSTILE))
        machine = {"processor": HOSTILE, "system": HOSTILE}
        packages = {"clbench": HOSTILE, "torch": HOSTILE}
        record.write_json("environment.json", {"python": HOSTILE, "packages": packages, "machine": machine})
        record.path.rename(runs / f"={seed}\x1b[2J\u202e\n")
    shutil.copytree(next(runs.iterdir()), runs / "broken\x1b[2J")
    (runs / "broken\x1b[2J" / "costs.json").write_text("{")
    return runs


def is_plain(text: str) -> bool:
    """Tell whether a text holds nothing but what can be seen, and ends of lines."""
    return all(unicodedata.category(each) not in ("Cc", "Cf", "Zl", "Zp") or each == "\n" for each in text)


@pytest.mark.usefixtures("hostile")
def test_no_text_of_a_record_does_anything(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [str(hostile), "--out", str(out), "--html", str(out / "page.html"), "--by-task"]
    assert main(["report", *words]) == 0
    printed, told = capsys.readouterr()
    assert is_plain(printed)
    assert is_plain(told)
    assert "Left out" in printed
    written = [file for file in out.iterdir() if file.suffix in (".csv", ".md", ".tex", ".html")]
    assert len(written) == 9
    for file in written:
        assert is_plain(file.read_text("utf-8")), file.name
        if file.suffix == ".csv":
            cells = [cell for row in csv.reader(file.read_text("utf-8").splitlines()) for cell in row]
            assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))], file.name
            assert any(cell.startswith("'=") for cell in cells) or file.name != "runs.csv"
    assert "<script>alert" not in (out / "page.html").read_text("utf-8")
    assert "\\input" not in (out / "comparison.tex").read_text("utf-8")


@pytest.mark.parametrize("words", [["resume"], ["report", "--out", "x"]])
def test_an_error_about_a_record_is_one_plain_line(
    words: list[str], hostile: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hostile)
    broken = hostile / "broken\x1b[2J"
    (broken / "spec.toml").write_text("[")
    assert main([*words, str(broken)]) == 2
    told = capsys.readouterr().err
    assert is_plain(told)
    assert told.count("\n") == 1
    assert r"broken\x1b[2J" in told


def test_what_cannot_be_seen_is_written_as_in_python() -> None:
    assert visible("a\x1b[0m\n\u202e\udce9\x00é") == r"a\x1b[0m\n\u202e\udce9\x00é"
    assert visible("a\nb", keep="\n") == "a\nb"
    assert shell_word("a b") == "'a b'"
    assert shell_word("a\n'b") == r"$'a\n\'b'"
