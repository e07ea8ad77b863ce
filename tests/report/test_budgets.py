"""Learners under several budgets stand side by side, at equal bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from clbench.records.record import Record
from clbench.report import group_runs, report
from clbench.report.budgets import budget_table, budgets, budgets_csv, learners
from clbench.report.groups import Group
from clbench.report.pictures import NoPictureError, equal_bytes

MakeRun = Callable[..., Record]


def groups_of(make_run: MakeRun, out: Path) -> list[Group]:
    """Make two learners: one under two budgets, with memories that fit them, one under the larger alone."""
    return group_runs(
        [
            make_run(out, strategy="er", budget="300kB", memory_size=20, accuracy=0.4),
            make_run(out, strategy="er", budget="1MB", memory_size=80, accuracy=0.6),
            make_run(out, strategy="er", budget="1MB", memory_size=80, seed=1, accuracy=0.8),
            make_run(out, strategy="lae", budget="1MB", accuracy=0.5),
        ]
    )


def test_runs_that_differ_in_the_budget_are_one_learner(make_run: MakeRun, tmp_path: Path) -> None:
    found = learners(groups_of(make_run, tmp_path))
    assert {learner.label.partition("-")[0]: len(learner.groups) for learner in found} == {"er": 2, "lae": 1}
    assert budgets(found) == ["300kB", "1MB"]


def test_the_table_and_the_file_say_the_same(make_run: MakeRun, tmp_path: Path) -> None:
    groups = groups_of(make_run, tmp_path)
    table = budget_table(groups)
    assert table is not None
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table)
    text = console.export_text()
    assert "70.0±14.1" in text
    rows = list(csv.DictReader(io.StringIO(budgets_csv(groups))))
    assert [(row["budget"], row["budget_bytes"], row["n"]) for row in rows if "er" in row["learner"][:2]] == [
        ("300kB", "300000", "1"),
        ("1MB", "1000000", "2"),
    ]
    assert [float(row["accuracy"]) for row in rows] == pytest.approx([0.4, 0.7, 0.5])


def test_a_report_draws_them(make_run: MakeRun, tmp_path: Path) -> None:
    groups_of(make_run, tmp_path / "runs")
    comparison = report([tmp_path / "runs"], tmp_path / "report", tmp_path / "page.html")
    names = {file.name for file in comparison.files}
    assert {"budgets.csv", "equal-bytes.png"} <= names
    assert "Accuracy at equal bytes" in (tmp_path / "page.html").read_text()


def test_without_budgets_there_is_nothing_of_it(make_run: MakeRun, tmp_path: Path) -> None:
    groups = group_runs([make_run(tmp_path)])
    assert budget_table(groups) is None
    with pytest.raises(NoPictureError, match="no run has a budget"):
        equal_bytes(groups)
