"""Show that a report computes, writes and draws what the records say, and says what is not comparable."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from clbench.errors import UserError
from clbench.options import Value
from clbench.records.record import Record
from clbench.records.spec import Part, RunOptions, RunSpec
from clbench.report import report, run_tables, seed_summary, write_figures, write_seed_summary
from clbench.report.latex import escape
from clbench.report.units import percent, quantity, seconds

ONE_SEED = "One seed only, so nothing is known of the spread: every group"
PNG = b"\x89PNG\r\n\x1a\n"


def make_run(
    out: Path,
    *,
    strategy: str = "lae",
    seed: int = 0,
    accuracy: float | None = 0.5,
    num_tasks: int = 2,
    stream: str = "split-digits",
    is_finished: bool = True,
    hashes: dict[str, str] | None = None,
    **options: Value,
) -> Record:
    """A record in which each known accuracy is the same and the costs are round numbers."""
    spec = RunSpec(
        stream=Part(name=stream),
        strategy=Part(name=strategy, options=options),
        backbone=Part(name="vit-micro"),
        petl=Part(name="adapter"),
        run=RunOptions(seed=seed),
    )
    record = Record.create(out, spec)
    matrix = [[accuracy if on <= after else None for on in range(num_tasks)] for after in range(num_tasks)]
    classes = [[2 * task, 2 * task + 1] for task in range(num_tasks)]
    same = {"stream": "s", "weights": "w", "strategy_source": "x"}
    record.write_json("hashes.json", {**same, **(hashes or {})})
    record.write_json("matrix.json", {"accuracy": matrix, "masked": matrix, "classes_of_task": classes})
    costs = {
        "parameters": {"total": 1_012_345, "trainable": 12_345},
        "stored_bytes": {"heads": 1_000, "petl": 164_000, "total": 165_000},
        "packed_bytes": {"heads": 1_000, "petl": 5_250, "total": 6_250},
        "flops": {"train": 1.2e12, "train_per_image": 3.5e7, "evaluate": 3e10, "evaluate_per_image": 1.2e7},
        "memory": {"process": {"peak": 345_000_000}, "accelerator": {"peak": None}},
        "time": {
            "train": {"seconds": 50.0 + 10 * seed, "cpu_seconds": 99.0, "images": 615},
            "evaluate": {"seconds": 2.0, "cpu_seconds": 4.0, "images": 246},
        },
        "energy": None,
    }
    record.write_json("costs.json", costs)
    if is_finished:
        record.write_json("metrics.json", {"accuracy": accuracy, "forgetting": 0.0, "ece": math.nan})
    return record


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


def test_mean_and_sample_deviation_over_seeds_are_the_golden_ones(tmp_path: Path) -> None:
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


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    table, summary = seed_summary([make_run(tmp_path)])
    assert math.isnan(summary["lae-adapter"]["values"]["accuracy"]["std"])
    assert "50.0" in shown(table)
    assert "50.0±" not in shown(table)


def test_a_mean_with_an_unknown_value_is_unknown(tmp_path: Path) -> None:
    records = [make_run(tmp_path, seed=0), make_run(tmp_path, seed=1, accuracy=None)]
    table, summary = seed_summary(records)
    assert math.isnan(summary["lae-adapter"]["values"]["accuracy"]["mean"])
    assert "n/a" in shown(table)


def test_seed_summary_is_written_beside_the_runs(tmp_path: Path) -> None:
    records = [make_run(tmp_path, seed=0, accuracy=0.5), make_run(tmp_path, seed=1, accuracy=0.7)]
    table, text = write_seed_summary(records)
    assert table.parent == text.parent == tmp_path
    assert table.name.startswith("summary-split-digits_lae-adapter_vit-micro_")
    row = next(row for row in read_csv(table) if row["name"] == "accuracy")
    assert (float(row["mean"]), row["n"]) == (pytest.approx(0.6), "2")
    assert float(row["std"]) == pytest.approx(math.sqrt(0.02))
    assert json.loads(text.read_text())["values"]["ece"] == {"mean": None, "std": None, "n": 2}


def test_report_groups_seeds_and_shows_the_table_within_80_columns(tmp_path: Path) -> None:
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


def test_report_writes_full_precision_csv(tmp_path: Path) -> None:
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


def test_report_writes_latex_with_the_best_in_bold(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path, seed=seed, accuracy=0.5 + seed / 10, ema_decay=0.9)
        make_run(tmp_path, seed=seed, accuracy=0.2, ema_decay=0.99)
    report([tmp_path], tmp_path)
    text = (tmp_path / "comparison.tex").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines()]
    assert [line for line in lines if line.endswith("rule")] == ["\\toprule", "\\midrule", "\\bottomrule"] * 2
    best, other, cost, _ = (line for line in lines if line.startswith("lae-adapter"))
    assert best.startswith(r"lae-adapter ema\_decay=0.9 & 2 & $\mathbf{55.0} \pm 7.1$ & ")
    assert other.startswith(r"lae-adapter ema\_decay=0.99 & 2 & $20.0 \pm 0.0$ & ")
    costs = r"& $12.3$\,k & $165$\,kB & $6.25$\,kB & $1.20$\,TFLOP & $345$\,MB & $57.0 \pm 7.1$\,s \\"
    assert cost == rf"lae-adapter ema\_decay=0.9 & 2 {costs}"
    assert best.count("&") == other.count("&") == cost.count("&") == 7
    assert "$0.0 \\pm 0.0$" in best  # forgetting ties: nobody is best
    assert "masked accuracy (\\%)" in text


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs LaTeX: there is no pdflatex on this machine")
def test_latex_makes_a_page_of_it(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("num_tasks", "size"), [(1, (880, 780)), (5, (880, 780)), (20, (1920, 1820))])
def test_figures_are_png_that_grow_with_the_tasks(
    tmp_path: Path, num_tasks: int, size: tuple[int, int]
) -> None:
    record = make_run(tmp_path, num_tasks=num_tasks, is_finished=False)
    write_figures(record)
    assert png_size(record.path / "figures" / "accuracy-matrix.png") == size
    assert png_size(record.path / "figures" / "accuracy-curve.png") == (1280, 840)


def test_the_same_numbers_are_drawn_to_the_same_bytes(tmp_path: Path) -> None:
    records = [make_run(tmp_path, strategy="joint") for _ in range(2)]
    for record in records:
        write_figures(record)
    first, second = ((record.path / "figures" / "accuracy-curve.png").read_bytes() for record in records)
    assert first == second


def test_drawing_leaves_no_global_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # another test's import
    write_figures(make_run(tmp_path))
    assert "matplotlib.pyplot" not in sys.modules


def test_unfinished_and_torn_runs_are_named_and_the_others_reported(tmp_path: Path) -> None:
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
    lacking = f"Left out: {foreign.path / 'matrix.json'} does not hold accuracy, classes_of_task"
    assert lacking in comparison.notes


def test_no_finished_run_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        report([tmp_path / "nowhere"], None)
    with pytest.raises(UserError, match=r"no spec\.toml in it"):
        report([tmp_path], None)
    make_run(tmp_path, is_finished=False)
    with pytest.raises(UserError, match=r"no finished run to report: .*clbench resume"):
        report([tmp_path], None)


def test_a_repeated_run_counts_once(tmp_path: Path) -> None:
    old, new = make_run(tmp_path, accuracy=0.1), make_run(tmp_path, accuracy=0.9)
    os.utime(old.path / "metrics.json", (1, 1))
    comparison = report([tmp_path, new.path], None)
    assert [record.path for record in comparison.groups[0].records] == [new.path]
    assert comparison.notes == [
        "Runs that repeat a spec and seed: 1; the latest of each counts",
        ONE_SEED,
    ]


def test_other_data_or_weights_are_said_and_drawn_apart(tmp_path: Path) -> None:
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


def test_a_split_that_changes_with_the_seed_is_compared_seed_by_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path, seed=seed, hashes={"stream": f"split {seed}"})
        make_run(tmp_path, seed=seed, strategy="naive", hashes={"stream": f"split {seed}"})
    assert report([tmp_path], None).notes == []


def test_a_strategy_edited_between_seeds_is_said(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1, hashes={"strategy_source": "edited"})
    notes = report([tmp_path], None).notes
    assert notes == ["The strategy's file changed between the seeds of lae-adapter"]


def test_labels_tell_what_differs(tmp_path: Path) -> None:
    make_run(tmp_path, epochs=3, rate=0.5)
    make_run(tmp_path, epochs=5, rate=0.5)
    make_run(tmp_path, strategy="x/er.py:ER", stream="folder:/data/birds")
    assert {group.label for group in report([tmp_path], None).groups} == {
        "lae-adapter · split-digits epochs=3",
        "lae-adapter · split-digits epochs=5",
        "er-ER-adapter · folder-birds",
    }


def test_namesakes_are_told_apart(tmp_path: Path) -> None:
    make_run(tmp_path, file="/a/weights.npz")
    make_run(tmp_path, file="/b/weights.npz")
    first, second = (group.label for group in report([tmp_path], None).groups)
    assert first != second
    assert first.startswith("lae-adapter file=weights.npz ")


@pytest.mark.parametrize("num_tasks", [1, 5, 10, 20])
def test_run_tables_fit_80_columns(tmp_path: Path, num_tasks: int) -> None:
    record = make_run(tmp_path, num_tasks=num_tasks, accuracy=1.0)
    text = shown(run_tables(record))
    assert max(map(len, text.splitlines())) <= 80
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


def test_unknown_accuracies_are_dashes(tmp_path: Path) -> None:
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
