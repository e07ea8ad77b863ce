"""Every figure of docs/cross-checks.md is what comes out today, and the worked examples are right by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FILES = ("cross_checks", "cross_check_tables", "in_avalanche", "matrices", "peer_formulas", "tables")


@pytest.fixture
def checks(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script, imported as it imports its neighbours."""
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    import cross_checks

    yield cross_checks
    for name in FILES:
        sys.modules.pop(name, None)


def test_the_page_says_what_comes_out(checks: Any) -> None:
    page = checks.PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- table: ") == len(checks.TABLES) == page.count("<!-- end -->")
    ours, theirs = page.splitlines(), checks.filled(page).splitlines()
    assert ours == theirs


def cells(checks: Any, table: str) -> dict[str, list[str]]:
    """The rows of a table as the page has it, by their titles."""
    page = checks.PAGE.read_text(encoding="utf-8")
    block = page.partition(f"<!-- table: {table} -->\n")[2].partition("<!-- end -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_the_worked_examples_of_the_page_by_hand(checks: Any) -> None:
    forgetting, backward = cells(checks, "forgetting"), cells(checks, "backward")
    assert forgetting["**clbench**"][:3] == ["0.4833", "0.2250", "-0.0750"]
    assert forgetting["Avalanche 0.6.0 (run)"][1] == "**0.2000**"  # (0.90 - 0.60 + 0.80 - 0.70) / 2
    assert forgetting["Mammoth"][2] == "**0.0000**"
    assert forgetting["LibContinual"][0] == "**0.2833**"  # (0.90 - 0.55 + 0.90 - 0.40) / 3
    assert backward["LibContinual, Continuum 265a985"][0] == "**-0.1917**"  # (-0.30 - 0.35 - 0.50) / 6
    assert backward["**clbench**, `bwt-d`"][0] == "-0.3917"
    assert cells(checks, "forward")["Continuum c14e70f"] == ["**0.3500**"]  # (0.85 + 0.20) / 3
    assert cells(checks, "averages")["**clbench**, over tasks"] == ["0.7000", "0.8500"]
    assert cells(checks, "averages")["PyCIL, PILOT, Renate `micro_average_accuracy`"] == [
        "0.6000",
        "0.8000",
    ]  # 48 of 80 images
    loops = cells(checks, "loops")
    assert loops["Avalanche 0.6.0 (run)"] == ["0.4833", "**0.5833**", "**0.0000**"]
    macs = cells(checks, "macs")
    assert macs["ViT-B/16, 224 px"][:2] == ["17,563.83", "**41.17**"]
    assert macs["convolution 3 × 3, 3 to 64, 32 px"][0] == f"{3 * 3 * 3 * 64 * 32 * 32 / 1e6:.2f}"


def test_our_plug_in_says_the_same_in_avalanches_loop_in_every_row(checks: Any) -> None:
    for table in ("forgetting", "backward", "forward", "loops"):
        rows = cells(checks, table)
        bridged = rows["clbench in Avalanche's loop (run)"]
        assert not any("**" in cell for cell in bridged)
        assert bridged == rows.get("**clbench**", bridged)


def test_made_predictions_have_the_accuracies_they_are_made_from(checks: Any) -> None:
    import matrices

    from clbench.evaluate import Results

    for matrix in matrices.MATRICES.values():
        log = matrices.log_of(matrix)
        log = {**log, "masked_prediction": log["prediction"], "confidence": log["label"] * np.nan}
        np.testing.assert_allclose(Results.from_log(log, len(matrix)).accuracy, matrix)
