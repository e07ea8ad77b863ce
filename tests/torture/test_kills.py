"""Runs that signals end at random moments end, resumed, as one that is left alone: bit for bit."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = "kills"
TIMES = int(os.environ.get("CLBENCH_TORTURE", "1"))
# Of those that learn a module, keep a memory, hold two networks, choose prompts and solve in closed form.
QUICKEST = ("lae-adapter", "ranpac", "er-adapter")
OTHERS = ("naive-lora", "icarl-adapter", "l2p", "simplecil", "mdpd", "ewc-adapter", "derpp-adapter")


@pytest.fixture
def kills(checkout: Path) -> Iterator[Any]:
    """The script that kills runs."""
    spec = importlib.util.spec_from_file_location(SCRIPT, checkout / "benchmarks" / "kills.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[SCRIPT] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[SCRIPT]


@pytest.mark.slow  # a process for every kill, and for what goes on after it
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", QUICKEST[:2] if TIMES == 1 else (*QUICKEST, *OTHERS))
def test_killed_runs_end_as_one_left_alone(
    name: str, kills: Any, record_property: Callable[[str, object], None]
) -> None:
    outcome = kills.tried(name, len(kills.SIGNALS) * TIMES, random.Random(f"{TIMES} {name}"))
    told = ", ".join(f"{getattr(outcome, each.name.lower())} {each.name}" for each in kills.SIGNALS)
    record_property("torture", f"{name}: {told}; {outcome.runs} runs compared with one left alone")
    assert outcome.different == []
    assert outcome.runs > 0
    assert outcome.kills == len(kills.SIGNALS) * TIMES
