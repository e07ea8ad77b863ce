"""Several processes that share a run give the numbers of one, or say why they cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from clbench import strategies
from clbench.data.tasks import Places
from clbench.options import option_types
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.runs.line import execute

SCRIPT = Path(__file__).with_name("runs_of_ranks.py")
SMALL = {"epochs": 2, "batch_size": 9, "memory_size": 20, "first_session_epochs": 1}
STREAM = {"name": "split-digits", "tasks": 2, "train_per_class": 6, "test_per_class": 3}
# Where a loss falls to zero its gradients are rounding, and Adam makes whole steps of them: of any two orders
# of addition it makes other numbers. Plain gradient descent makes nothing of them.
ROUNDED = {"icarl", "inflora", "lwf"}
CLOSE = 1e-5  # the order in which gradients and features are added up differs


def spec_of(name: str, seed: int = 0, **sections: dict[str, Any]) -> RunSpec:
    bare, _ = strategies.split(name)
    allowed = option_types(strategies.get(bare))
    options = {key: value for key, value in SMALL.items() if key in allowed}
    if bare in ROUNDED:
        options |= {"optimizer": "sgd", "learning_rate": 0.01}
    is_told = "task-identity" in strategies.get(bare).needs
    return resolve(
        {
            "stream": {**STREAM, **({"scenario": "task"} if is_told else {}), **sections.get("stream", {})},
            "strategy": {"name": name, **options, **sections.get("strategy", {})},
            "run": {"seed": seed, "device": "cpu", **sections.get("run", {})},
            **{key: value for key, value in sections.items() if key not in ("stream", "strategy", "run")},
        }
    )


@dataclass(frozen=True)
class Told:
    """What the processes of one run say of it."""

    line: str
    num_bytes: int

    @property
    def record(self) -> Record:
        return Record.open(Path(self.line))


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def launched(number: int, *words: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node", str(number), *words]


def shared(specs: dict[str, RunSpec], number: int, folder: Path) -> dict[str, Told]:
    """Do the runs in so many processes."""
    (folder / "specs").mkdir(parents=True)
    for name, spec in specs.items():
        (folder / "specs" / f"{name}.toml").write_text(spec.to_toml())
    words = launched(number, str(SCRIPT), str(folder / "specs"), str(folder))
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = {name: (folder / f"{name}.told").read_text().splitlines() for name in specs}
    return {name: Told(told, int(sent)) for name, (told, sent) in lines.items()}


def differences(one: Record, other: Record) -> list[str]:
    """Name what of two records is not the same but for rounding."""
    found = []
    files = sorted(path.relative_to(one.path) for path in one.path.glob("predictions/*.parquet"))
    for file in files:
        tables = [pd.read_parquet(each.path / file) for each in (one, other)]
        for column in tables[0]:
            pair = [table[column].to_numpy() for table in tables]
            if not np.allclose(*pair, rtol=CLOSE, atol=CLOSE, equal_nan=True):
                apart = np.nanmax(np.abs(pair[0].astype(float) - pair[1].astype(float)))
                found.append(f"{file.name}: {column} by {apart:.1e}")
    states = [load_file(max(each.path.glob("checkpoint/*.safetensors"))) for each in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        apart = float((tensor.double() - states[1][name].double()).abs().max()) if tensor.numel() else 0.0
        size = max(1.0, float(tensor.double().abs().max()) if tensor.numel() else 0.0)
        if not apart <= CLOSE * size:
            found.append(f"{name} by {apart:.1e} of {size:.1e}")
    costs = [json.loads((each.path / "costs.json").read_text()) for each in (one, other)]
    for key in ("flops", "stored_bytes", "capacity_bytes", "parameters"):
        if costs[0][key] != costs[1][key]:
            found.append(f"{key}: {costs[0][key]} against {costs[1][key]}")
    return found


@pytest.mark.slow  # every strategy twice
@pytest.mark.timeout(1500)
def test_every_strategy_gives_the_numbers_of_one_process_or_says_why_not(tmp_path: Path) -> None:
    specs = {name: spec_of(name) for name in strategies.names()}
    told = shared(specs, 2, tmp_path / "shared")
    found = {}
    for name, spec in specs.items():
        reason = strategies.get(name).alone
        if reason:
            assert told[name].line.startswith(f"AloneError: strategy {name} cannot share a run")
            assert reason in told[name].line
            continue
        alone = execute(spec, out=tmp_path / "alone", places=Places(cache_dir=tmp_path / "cache"))
        assert Path(told[name].line).is_dir(), (name, told[name].line)
        if apart := differences(alone, told[name].record):
            found[name] = apart
    assert found == {}
    assert sum(not strategies.get(name).alone for name in specs) > 25
