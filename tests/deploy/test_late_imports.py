"""Load a learner without what only runs and reports need: whoever asks it waits for that."""

from __future__ import annotations

import subprocess
import sys

import pytest

LATE = {
    "clbench.report",
    "clbench.runs.line",
    "rich",
    "pandas",
    "matplotlib",
    "torchvision",
    "avalanche",
    "onnx",
}


@pytest.mark.slow
def test_what_loads_and_asks_imports_nothing_that_runs() -> None:
    code = "import sys, clbench; clbench.load, clbench.Learner; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not LATE & set(loaded.split())
