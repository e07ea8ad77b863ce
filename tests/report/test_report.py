"""Show that a report computes, writes and draws what the records say, and says what is not comparable."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

import clbench
from clbench.errors import UserError
from clbench.records.record import Record
from clbench.report import report, run_tables, seed_summary, write_figures, write_seed_summary
from clbench.report.groups import setting
from clbench.report.latex import escape
from clbench.report.runs import Runs
from clbench.report.units import percent, quantity, seconds

ONE_SEED = "One seed only, so nothing is known of the spread: every group"
MakeRun = Callable[..., Record]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file has been opened to be read as text."""
    counts: Counter[Path] = Counter()
    read_text = Path.read_text

    def counted(path: Path, *args: Any, **options: Any) -> str:
        counts[path] += 1
        return read_text(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", counted)
    return counts


def read_of_records(opened: Counter[Path]) -> set[tuple[str, int]]:
    """Which files of records were opened, and how often."""
    return {(file.name, number) for file, number in opened.items() if (file.parent / "spec.toml").is_file()}


def shown(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(renderable)
    console.file.close()
    return console.export_text()


def read_csv(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def png_size(file: Path) -> tuple[int, int]:
    data = file.read_bytes()
    assert data.startswith(PNG)
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_mean_and_sample_deviation_over_seeds_are_the_golden_ones(tmp_path: Path, make_run: MakeRun) -> None:
    records = [make_run(tmp_path, seed=seed, accuracy=value) for seed, value in enumerate((0.5, 0.6, 0.7))]
    _, summary = seed_summary(records)
    statistics = summary["lae-adapter"]
    assert statistics["seeds"] == [0, 1, 2]
    assert statistics["values"]["accuracy"] == {
        "mean": pytest.approx(0.6),
        "std": pytest.approx(0.1),
        "n": 3,
    }
    assert statistics["values"]["seconds"]["mean"] == pytest.approx(62.0)  # 52, 62, 72
    assert statistics["values"]["seconds"]["std"] == pytest.approx(10.0)


def test_one_seed_has_no_deviation(tmp_path: Path, make_run: MakeRun) -> None:
    table, summary = seed_summary([make_run(tmp_path)])
    assert math.isnan(summary["lae-adapter"]["values"]["accuracy"]["std"])
    assert "50.0" in shown(table)
    assert "50.0±" not in shown(table)


def test_a_mean_with_an_unknown_value_is_unknown(tmp_path: Path, make_run: MakeRun) -> None:
    records = [make_run(tmp_path, seed=0), make_run(tmp_path, seed=1, accuracy=None)]
    table, summary = seed_summary(records)
    assert math.isnan(summary["lae-adapter"]["values"]["accuracy"]["mean"])
    assert "n/a" in shown(table)


def test_seed_summary_is_written_beside_the_runs(tmp_path: Path, make_run: MakeRun) -> None:
    records = [make_run(tmp_path, seed=0, accuracy=0.5), make_run(tmp_path, seed=1, accuracy=0.7)]
    table, text = write_seed_summary(records)
    assert table.parent == text.parent == tmp_path
    assert table.name.startswith("summary-split-digits_lae-adapter_vit-micro_")
    row = next(row for row in read_csv(table) if row["name"] == "accuracy")
    assert (float(row["mean"]), row["n"]) == (pytest.approx(0.6), "2")
    assert float(row["std"]) == pytest.approx(math.sqrt(0.02))
    assert json.loads(text.read_text())["values"]["ece"] == {"mean": None, "std": None, "n": 2}


def test_report_groups_seeds_and_shows_the_table_within_80_columns(tmp_path: Path, make_run: MakeRun) -> None:
    for seed in (0, 1):
        make_run(tmp_path, seed=seed, accuracy=0.5 + seed / 10)
        make_run(tmp_path, strategy="naive", seed=seed, accuracy=0.2)
    comparison = report([tmp_path], None)
    assert [(group.label, group.seeds) for group in comparison.groups] == [
        ("lae-adapter", [0, 1]),
        ("naive-adapter", [0, 1]),
    ]
    text = shown(comparison)
    costs = ("12.3 k", "165 kB", "6.25 kB", "1.20 TFLOP", "57.0 s")
    for expected in ("55.0±7.1", "20.0±0.0", "n/a", *costs):
        assert expected in text
    assert max(map(len, text.splitlines())) <= 80
    assert comparison.notes == []


def test_report_writes_full_precision_csv(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, accuracy=1 / 3)
    make_run(tmp_path, strategy="naive", accuracy=0.1)
    files = {file.name: file for file in report([tmp_path], tmp_path / "out").files}
    first, second = read_csv(files["runs.csv"])
    assert (first["strategy"], float(first["accuracy"]), first["ece"]) == ("lae", 1 / 3, "")
    assert (first["seed"], first["flops.train"], first["stored_bytes.total"]) == (
        "0",
        "1200000000000",
        "165000",
    )
    assert second["group"] == "naive-adapter"
    rows = {(row["group"], row["name"]): row for row in read_csv(files["summary.csv"])}
    assert float(rows["lae-adapter", "accuracy"]["mean"]) == 1 / 3
    assert rows["lae-adapter", "accuracy"]["std"] == ""


def test_report_writes_latex_with_the_best_in_bold(tmp_path: Path, make_run: MakeRun) -> None:
    for seed in (0, 1):
        make_run(tmp_path, seed=seed, accuracy=0.5 + seed / 10, ema_decay=0.9)
        make_run(tmp_path, seed=seed, accuracy=0.2, ema_decay=0.99)
    report([tmp_path], tmp_path)
    text = (tmp_path / "comparison.tex").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines()]
    assert [line for line in lines if line.endswith("rule")] == ["\\toprule", "\\midrule", "\\bottomrule"] * 2
    best, other, cost, _ = (line for line in lines if line.startswith("ema"))
    assert best.startswith(r"ema\_decay=0.9 & 2 & $\mathbf{55.0} \pm 7.1$ & ")
    assert other.startswith(r"ema\_decay=0.99 & 2 & $20.0 \pm 0.0$ & ")
    costs = r"& $12.3$\,k & $165$\,kB & $6.25$\,kB & $1.20$\,TFLOP & $345$\,MB & $57.0 \pm 7.1$\,s \\"
    assert cost == rf"ema\_decay=0.9 & 2 {costs}"
    assert best.count("&") == other.count("&") == cost.count("&") == 7
    assert "$0.0 \\pm 0.0$" in best  # forgetting ties: nobody is best
    assert "masked accuracy (\\%)" in text


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs LaTeX: there is no pdflatex on this machine")
def test_latex_makes_a_page_of_it(tmp_path: Path, make_run: MakeRun) -> None:
    for seed in (0, 1):
        make_run(tmp_path, seed=seed, accuracy=0.5 + seed / 10, ema_decay=0.9)
        make_run(tmp_path, seed=seed, strategy="path/to_my~file.py:A&B", accuracy=0.2)
    report([tmp_path], tmp_path)
    document = ["\\documentclass{article}", "\\usepackage{booktabs}", "\\begin{document}"]
    document += ["\\input{comparison}", "\\end{document}"]
    (tmp_path / "page.tex").write_text("\n".join(document))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "page.pdf").stat().st_size > 10_000


def test_latex_escapes_what_means_something_to_it() -> None:
    assert escape(r"a_b & 50% {x} \y ~^ #$") == (
        r"a\_b \& 50\% \{x\} \textbackslash{}y \textasciitilde{}\textasciicircum{} \#\$"
    )


def test_a_run_whose_accuracies_are_unknown_has_no_curve(tmp_path: Path, make_run: MakeRun) -> None:
    record = make_run(tmp_path, accuracy=None, is_finished=False)
    write_figures(record)
    assert not list((record.path / "figures").glob("accuracy-*.png"))


@pytest.mark.parametrize(("num_tasks", "size"), [(1, (880, 780)), (5, (880, 780)), (20, (1920, 1820))])
def test_figures_are_png_that_grow_with_the_tasks(
    tmp_path: Path, num_tasks: int, size: tuple[int, int], make_run: MakeRun
) -> None:
    record = make_run(tmp_path, num_tasks=num_tasks, is_finished=False)
    write_figures(record)
    # some versions of matplotlib drop the last dot: 9.6 inches of 200 dots are 1919.99...
    assert png_size(record.path / "figures" / "accuracy-matrix.png") == pytest.approx(size, abs=1)
    assert png_size(record.path / "figures" / "accuracy-curve.png") == (1280, 840)


def test_the_same_numbers_are_drawn_to_the_same_bytes(tmp_path: Path, make_run: MakeRun) -> None:
    records = [make_run(tmp_path, strategy="joint") for _ in range(2)]
    for record in records:
        write_figures(record)
    first, second = ((record.path / "figures" / "accuracy-curve.png").read_bytes() for record in records)
    assert first == second


def test_drawing_leaves_no_global_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_run: MakeRun
) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # another test's import
    write_figures(make_run(tmp_path))
    assert "matplotlib.pyplot" not in sys.modules


def test_unfinished_and_torn_runs_are_named_and_the_others_reported(
    tmp_path: Path, make_run: MakeRun
) -> None:
    make_run(tmp_path)
    stopped = make_run(tmp_path, strategy="naive", is_finished=False)
    torn = make_run(tmp_path, strategy="joint")
    (torn.path / "costs.json").write_text("{")
    foreign = make_run(tmp_path, strategy="foreign")
    (foreign.path / "matrix.json").write_text("[]")
    comparison = report([tmp_path], None)
    assert [group.label for group in comparison.groups] == ["lae-adapter"]
    assert f"Unfinished, go on with: clbench resume {stopped.path}" in comparison.notes
    assert any(
        note.startswith(f"Left out: cannot read {torn.path / 'costs.json'}") for note in comparison.notes
    )
    told = f"Left out: {foreign.path / 'matrix.json'} holds a list, not values by name"
    assert told in comparison.notes


def test_no_finished_run_is_an_error_in_one_line(tmp_path: Path, make_run: MakeRun) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        report([tmp_path / "nowhere"], None)
    with pytest.raises(UserError, match=r"no spec\.toml in it"):
        report([tmp_path], None)
    make_run(tmp_path, is_finished=False)
    with pytest.raises(UserError, match=r"no finished run to report: .*clbench resume"):
        report([tmp_path], None)


def test_a_repeated_run_counts_once(tmp_path: Path, make_run: MakeRun) -> None:
    old, new = make_run(tmp_path, accuracy=0.1), make_run(tmp_path, accuracy=0.9)
    os.utime(old.path / "metrics.json", (1, 1))
    comparison = report([tmp_path, new.path], None)
    assert [record.path for record in comparison.groups[0].records] == [new.path]
    assert comparison.notes == [
        "Runs that repeat a spec and seed: 1; the latest of each counts",
        ONE_SEED,
    ]


def test_other_data_or_weights_are_said_and_drawn_apart(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path)
    make_run(tmp_path, strategy="naive", hashes={"stream": "other"}, accuracy=0.9)
    make_run(tmp_path, strategy="joint", hashes={"weights": "other"}, accuracy=0.8)
    comparison = report([tmp_path], None)
    assert comparison.notes == [
        "Not the same stream, split or class order: joint-adapter, lae-adapter | naive-adapter",
        "Not the same weights of the backbone: joint-adapter | lae-adapter, naive-adapter",
        ONE_SEED,
    ]
    assert "joint-adapter, lae-adapter | naive-adapter" in shown(comparison, width=200)
    names = {file.name for file in comparison.files}
    assert {"accuracy-curve-1.png", "accuracy-curve-2.png"} <= names
    latex = (tmp_path / "report" / "comparison.tex").read_text(encoding="utf-8")
    assert r"joint-adapter & 1 & $\mathbf{80.0}$" in latex  # best of those on its stream
    assert "naive-adapter & 1 & $90.0$" in latex  # alone on its stream


def test_a_split_that_changes_with_the_seed_is_compared_seed_by_seed(
    tmp_path: Path, make_run: MakeRun
) -> None:
    for seed in (0, 1):
        make_run(tmp_path, seed=seed, hashes={"stream": f"split {seed}"})
        make_run(tmp_path, seed=seed, strategy="naive", hashes={"stream": f"split {seed}"})
    assert report([tmp_path], None).notes == []


def test_a_strategy_edited_between_seeds_is_said(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1, hashes={"strategy_source": "edited"})
    notes = report([tmp_path], None).notes
    assert notes == ["The strategy's file changed between the seeds of lae-adapter"]


@pytest.mark.slow
def test_a_report_reads_each_file_of_a_record_once(
    tmp_path: Path, make_run: MakeRun, write_run: MakeRun, opened: Counter[Path]
) -> None:
    for seed in (0, 1):
        write_run("lae", seed)
        make_run(tmp_path / "runs", "naive", seed)
        make_run(tmp_path / "runs", "joint", seed)
    opened.clear()
    report([tmp_path / "runs"], tmp_path / "out", tmp_path / "page.html")
    names = ("spec.toml", "metrics.json", "costs.json", "matrix.json", "hashes.json", "environment.json")
    assert read_of_records(opened) == {(name, 1) for name in (*names, "command.txt", "manifest.sha256")}


def test_frames_read_each_file_of_a_record_once(
    tmp_path: Path, make_run: MakeRun, write_run: MakeRun, opened: Counter[Path]
) -> None:
    for strategy in ("lae", "joint"):
        make_run(tmp_path / "runs", strategy)
    record = write_run("naive")
    by_task = [{"task": after, "stored_bytes": {"total": 10}} for after in range(3)]
    record.write_json("costs.json", {**record.read_json("costs.json"), "by_task": by_task})
    opened.clear()
    runs = clbench.load_runs(tmp_path, recompute=True)
    assert len(runs.runs) == 3
    assert all(map(len, (runs.matrix, runs.metrics, runs.costs, runs.summary, runs.warnings)))
    assert runs.costs_by_task["after"].tolist() == [0, 1, 2]
    assert {number for _, number in read_of_records(opened)} == {1}
    again = Runs(runs.groups, [])  # what has been read is as it was
    assert again.costs_by_task.equals(runs.costs_by_task)


def test_a_table_of_a_run_reads_each_file_once_and_what_is_there_now(
    tmp_path: Path, make_run: MakeRun, opened: Counter[Path]
) -> None:
    record = make_run(tmp_path, accuracy=0.25)
    assert "25.0" in shown(run_tables(record))
    assert read_of_records(opened) == {(name, 1) for name in ("matrix.json", "metrics.json", "costs.json")}
    record.write_json("metrics.json", {"accuracy": 0.75})
    assert "75.0" in shown(run_tables(record))


def test_labels_tell_what_differs(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, epochs=3, rate=0.5)
    make_run(tmp_path, epochs=5, rate=0.5)
    make_run(tmp_path, strategy="x/er.py:ER", stream="folder:/data/birds")
    assert {group.label for group in clbench.load_runs(tmp_path).groups} == {
        "lae-adapter · split-digits epochs=3",
        "lae-adapter · split-digits epochs=5",
        "er-ER-adapter · folder-birds",
    }


def test_namesakes_are_told_apart(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, file="/a/weights.npz")
    make_run(tmp_path, file="/b/weights.npz")
    first, second = (group.label for group in clbench.load_runs(tmp_path).groups)
    assert first != second
    assert first.startswith("file=weights.npz ")


def test_labels_are_short(tmp_path: Path, make_run: MakeRun) -> None:
    for number, options in enumerate([{}, {"a": 1}, {"b": 1}]):  # all others of many options change together
        changed = {f"option{place}": min(number, 1) for place in range(5)}
        make_run(tmp_path, **{"a": 0, "b": 0, **changed, **options})
    groups = clbench.load_runs(tmp_path).groups
    assert [group.label for group in groups] == ["a=0 b=0", "a=0 b=1", "a=1"]
    assert setting(groups) == ["split-digits", "vit-micro", "lae-adapter"]


@pytest.mark.parametrize("num_tasks", [1, 5, 10, 20, 100])
def test_run_tables_fit_80_columns(tmp_path: Path, num_tasks: int, make_run: MakeRun) -> None:
    record = make_run(tmp_path, num_tasks=num_tasks, accuracy=1.0)
    text = shown(run_tables(record))
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 60
    assert text.count("...") == (7 if num_tasks == 100 else 0)  # a row for those in the middle
    assert "…" not in text
    last_row = next(row for row in map(str.split, text.splitlines()) if row[:2] == [str(num_tasks), "100"])
    assert len(last_row) == (num_tasks + 2 if num_tasks <= 10 else 7)
    for expected in (
        "accuracy",
        "12.3 k",
        "165 kB",
        "1.20 TFLOP",
        "35.0 MFLOP",
        "12.0 MFLOP",
        "345 MB",
        "12.3 images/s",
        "n/a",
    ):
        assert expected in text


def test_unknown_accuracies_are_dashes(tmp_path: Path, make_run: MakeRun) -> None:
    text = shown(run_tables(make_run(tmp_path, accuracy=None)))
    assert any(line.split() == ["2", "–", "–", "–"] for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.53846), "53.8"),
        (percent(-0.075, 0.0123), "-7.5 ± 1.2"),
        (percent(math.nan), "n/a"),
        (quantity(12_345), "12.3 k"),
        (quantity(999.6), "1.00 k"),
        (quantity(999), "999"),
        (quantity(0, unit="B"), "0 B"),
        (quantity(165_000, 2_000, "B"), "165 ± 2 kB"),
        (quantity(1.2e12, 0.0, "FLOP"), "1.20 TFLOP"),
        (quantity(12.34, unit="images/s"), "12.3 images/s"),
        (quantity(math.nan, unit="J"), "n/a"),
        (seconds(85.23, 1.26), "85.2 ± 1.3 s"),
        (seconds(1234.5), "1234 s"),
        (seconds(math.nan), "n/a"),
    ],
)
def test_numbers_are_written_for_people(text: str, expected: str) -> None:
    assert text == expected


def test_importing_the_report_loads_nothing_heavy() -> None:
    code = (
        "import sys, clbench.report; "
        "print([name for name in ('torch', 'matplotlib', 'pandas', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
