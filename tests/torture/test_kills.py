"""Runs of all families of strategies, ended by signals at random moments, end as one that was left alone."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "kills.py"
FAMILIES = ("lae-adapter", "er-adapter", "icarl-adapter", "coda-prompt", "ranpac", "mdpd")
KILLS = int(os.environ.get("CLBENCH_TORTURE", "1"))  # of each


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    spec = util.spec_from_file_location("kills", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["kills"] = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow  # a process for every kill, and for what goes on after it
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_killed_run_ends_as_one_left_alone(
    name: str, kills: ModuleType, record_property: Callable[[str, object], None]
) -> None:
    outcome = kills.tried(name, KILLS, random.Random(f"torture {name}"))
    signals = f"{outcome.by_sigkill} SIGKILL, {outcome.by_sigterm} SIGTERM, {outcome.by_sigint} SIGINT"
    record_property("torture", f"{name}: {signals}; different afterwards: {outcome.different or 'nothing'}")
    assert outcome.kills >= KILLS
    assert outcome.different == []
