"""Several processes that share a run give the numbers of one, or say why they cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.torch import load_file

from clbench import strategies
from clbench.backbones.ranks import Ranks
from clbench.cli import main
from clbench.data.tasks import Places
from clbench.options import option_types
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.runs.line import execute

SCRIPT = Path(__file__).with_name("runs_of_ranks.py")
# small batches: of the first ones the operations are counted, by each process alone
SMALL = {"epochs": 2, "batch_size": 5, "memory_size": 20, "first_session_epochs": 1}
STREAM = {"name": "split-digits", "tasks": 2, "train_per_class": 6, "test_per_class": 3}
# Adam divides a gradient by its own size: where it is rounding alone, steps are as long as any, and two
# orders of addition give other numbers, in one process, too. Gradient descent makes as little of it as it is.
DESCENT = {"optimizer": "sgd", "learning_rate": 0.001}
WHOLE = {"coda-prompt", "confit", "dualprompt", "l2p", "mdpd"}  # see docs/how-to/run.md
CLOSE = 1e-5  # the order in which gradients and features are added up differs
CLOSE_IN_BF16 = 1e-3  # and here what is added up is rounded to eight bits first, 1 part in 256


def spec_of(name: str, seed: int = 0, **sections: dict[str, Any]) -> RunSpec:
    bare, _ = strategies.split(name)
    allowed = option_types(strategies.get(bare))
    options = {key: value for key, value in SMALL.items() if key in allowed}
    if "online" in sections.get("stream", {}):
        options = {"memory_size": 20}
    options |= {key: value for key, value in DESCENT.items() if key in allowed}
    is_told = "task-identity" in strategies.get(bare).needs
    return resolve(
        {
            "stream": {**STREAM, **({"scenario": "task"} if is_told else {}), **sections.get("stream", {})},
            "strategy": {"name": name, **options, **sections.get("strategy", {})},
            "run": {"seed": seed, "device": "cpu", "eval_batch_size": 8, **sections.get("run", {})},
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
    close = CLOSE if one.spec.run.precision == "fp32" else CLOSE_IN_BF16
    found = []
    files = sorted(path.relative_to(one.path) for path in one.path.glob("predictions/*.parquet"))
    for file in files:
        tables = [pd.read_parquet(each.path / file) for each in (one, other)]
        for column in tables[0]:
            pair = [table[column].to_numpy() for table in tables]
            if not np.allclose(*pair, rtol=close, atol=close, equal_nan=True):
                apart = np.nanmax(np.abs(pair[0].astype(float) - pair[1].astype(float)))
                found.append(f"{file.name}: {column} by {apart:.1e}")
    states = [load_file(max(each.path.glob("checkpoint/*.safetensors"))) for each in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        apart = float((tensor.double() - states[1][name].double()).abs().max()) if tensor.numel() else 0.0
        size = max(1.0, float(tensor.double().abs().max()) if tensor.numel() else 0.0)
        if not apart <= close * size:
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
        if reason := strategies.get(name).alone:
            assert told[name].line.startswith(f"AloneError: strategy {name} cannot share a run")
            assert reason in told[name].line
            continue
        alone = execute(spec, out=tmp_path / "alone", places=Places(cache_dir=tmp_path / "cache"))
        assert Path(told[name].line).is_dir(), (name, told[name].line)
        if apart := differences(alone, told[name].record):
            found[name] = apart
    assert found == {}
    assert {name for name, each in told.items() if not each.num_bytes} - set(refused()) <= WHOLE
    assert len(specs) - len(refused()) > 25


def refused() -> list[str]:
    return [name for name in strategies.names() if strategies.get(name).alone]


MORE = {  # what else a run may do, and what is computed by the first process alone
    "er-adapter": {"run": {"eval_every": 2, "probe_images": 2, "checkpoint_every": 1}},
    "lae-adapter": {"run": {"exact": True}, "variant": [{"name": "rtn", "quant": {"name": "rtn"}}]},
    "naive-full": {},
    "slca-lora": {"run": {"precision": "bf16"}},
    "ranpac-ssf": {"quant": {"name": "rtn"}},
    "naive-sherl": {},
    "naive-lora": {"compress": {"name": "tome", "removed": 8}},
    "er-ace-vpt-deep": {"stream": {"online": 5}},
}


@pytest.mark.slow  # eight runs in four processes, and alone
@pytest.mark.timeout(600)
def test_four_processes_do_whatever_one_does(tmp_path: Path) -> None:
    specs = {name: spec_of(name, **sections) for name, sections in MORE.items()}
    told = shared(specs, 4, tmp_path / "shared")
    found = {}
    for name, spec in specs.items():
        alone = execute(spec, out=tmp_path / "alone", places=Places(cache_dir=tmp_path / "cache"))
        assert Path(told[name].line).is_dir(), (name, told[name].line)
        if apart := differences(alone, told[name].record):
            found[name] = apart
        assert sorted(record_files(told[name].record)) == sorted(record_files(alone))
    assert found == {}
    assert {name for name, each in told.items() if not each.num_bytes} == {"naive-sherl"}


def record_files(record: Record) -> list[str]:
    names = (str(path.relative_to(record.path)) for path in record.path.rglob("*") if path.is_file())
    return [name for name in names if not name.startswith("checkpoint/0")]  # their names are hashes


@pytest.mark.slow  # processes that start, die and start again
@pytest.mark.timeout(600)
def test_a_run_whose_process_died_goes_on_in_another_number_of_them(tmp_path: Path) -> None:
    spec = spec_of("er-adapter", strategy={"epochs": 12}, run={"checkpoint_every": 1})
    (tmp_path / "spec.toml").write_text(spec.to_toml())
    env = {**environment(), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = launched(2, "-m", "clbench", "run", "--config", "spec.toml")
    with subprocess.Popen(words, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as running:
        while not list(tmp_path.glob("runs/*/checkpoint/0*")):
            assert running.poll() is None
            time.sleep(0.05)
        (second,) = (each for each in psutil.Process(running.pid).children() if rank_of(each) == "1")
        second.kill()
        told = running.communicate()[1]
    assert running.returncode != 0
    (line,) = (line for line in told.splitlines() if line.startswith("error: "))
    (folder,) = (tmp_path / "runs").iterdir()
    assert "one of its 2 processes has ended" in line
    assert f"go on with: torchrun --nproc-per-node 2 -m clbench resume runs/{folder.name}" in line
    assert "Traceback" not in told.partition("torch/distributed/elastic")[0]
    words = launched(3, "-m", "clbench", "resume", str(folder))
    subprocess.run(words, cwd=tmp_path, env=env, check=True, capture_output=True)
    alone = execute(spec, out=tmp_path / "alone", places=Places(cache_dir=tmp_path / "cache"))
    assert differences(alone, Record.open(folder)) == []


def rank_of(process: psutil.Process) -> str:
    return process.environ().get("RANK", "")


def test_a_batch_is_cut_as_evenly_as_can_be() -> None:
    cut = [Ranks(index, 4)._part(10, index) for index in range(4)]
    assert cut == [slice(0, 3), slice(3, 6), slice(6, 8), slice(8, 10)]


@pytest.fixture
def as_one_of_two(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("report runs", "clbench report is done by one process, and torchrun has started 2"),
        ("run --strategy naive,er", "2 runs were asked for, and torchrun has started 2 processes for one"),
    ],
)
def test_what_one_process_does_is_refused_in_one_line(
    words: str, told: str, as_one_of_two: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert told in line
    as_one_of_two.setenv("RANK", "1")  # only the first of them talks
    assert main(words.split()) == 2
    assert capsys.readouterr() == ("", "")
