"""What a strategy without probabilities does not know is left out of every table, rank and picture."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest

import clbench
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.report import report
from clbench.report.comparing import pareto_front
from clbench.report.pictures.calibration import calibration, reliability
from clbench.report.pictures.picture import NoPictureError
from clbench.runs.line import execute
from clbench.streams import Places

UNKNOWN = ("ece", "ece-macro", "ece-classwise", "nll", "brier", "bias-to-new")
SMALL = {"name": "split-digits", "tasks": "2", "train_per_class": 8, "test_per_class": 5}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for strategy in ({"name": "simplecil"}, {"name": "er-linear", "epochs": 1, "batch_size": 8}):
        spec = resolve({"stream": SMALL, "strategy": strategy})
        execute(spec, out=folder / "runs", places=Places(None, folder / "cache"))
    return folder / "runs"


def test_metrics_and_columns_of_shares_are_unknown_of_similarities(runs: Path) -> None:
    records = {each.spec.strategy.name: each for each in map(Record.open, sorted(runs.iterdir()))}
    similar, sure = (records[name].read_json("metrics.json") for name in ("simplecil", "er"))
    assert all(similar[name] is None for name in UNKNOWN)
    assert all(sure[name] is not None for name in UNKNOWN)
    assert similar["accuracy"] > 0.2  # above chance: its predictions are read off the same scores
    assert not math.isnan(records["simplecil"].results().accuracy[1, 0])


def test_a_report_leaves_out_what_is_unknown(runs: Path, tmp_path: Path) -> None:
    report([runs], tmp_path / "out")
    report([runs], None, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert re.search(r">\s*nan", page, re.IGNORECASE) is None
    files = [file for file in (tmp_path / "out").iterdir() if file.suffix in (".csv", ".md", ".tex")]
    assert len(files) > 5
    assert not [file for file in files if re.search(r"\bnan\b", file.read_text("utf-8"), re.IGNORECASE)]
    with (tmp_path / "out" / "summary.csv").open(newline="", encoding="utf-8") as lines:
        errors = {row["group"]: row["mean"] for row in csv.DictReader(lines) if row["name"] == "ece"}
    assert errors["simplecil-linear"] == ""
    assert 0 <= float(errors["er-linear"]) <= 1


def test_who_has_no_calibration_error_is_ranked_drawn_and_tested_nowhere(runs: Path) -> None:
    loaded = clbench.load_runs(runs)
    ranks = loaded.ranks("ece")
    assert ranks["er-linear"] == 1
    assert math.isnan(ranks["simplecil-linear"])
    assert set(loaded.ranks("accuracy")) == {1, 2}
    assert loaded.tests("ece")["p"].isna().all()
    assert pareto_front(loaded.groups, "flops.train", "ece") == {"er-linear"}
    drawn = {group.label: reliability(group) for group in loaded.groups}
    assert [label for label, each in drawn.items() if each] == ["er-linear"]
    assert "simplecil" not in str(calibration(loaded.groups).figure.get_axes()[0].get_legend_handles_labels())
    with pytest.raises(NoPictureError, match="confidence"):
        calibration([loaded["simplecil-linear"]])
