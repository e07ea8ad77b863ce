"""A run that is killed, at any moment, and resumed leaves the record of an undisturbed one."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clbench.backbones.micro import FirstViTMicro
from clbench.records.former_sources import FORMER_SOURCES, is_former
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.runs.checkpoint import load_checkpoint
from clbench.runs.line import execute, resume
from clbench.streams import Places

pytestmark = pytest.mark.usefixtures("no_figures")

# Begins or resumes a run and kills itself with SIGKILL at the named moment: the nth step, the nth batch of an
# evaluation, or with half of the nth checkpoint written.
KILLED_RUN = """
import os, signal, sys
from pathlib import Path
import torch
import clbench.runs.checkpoint, clbench.files
from clbench.records.progress import Progress
from clbench.runs.line import execute, resume
from clbench.records.spec import RunSpec
from clbench.streams import Places

moment, number, out, cache = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
torch.set_num_threads(1)
count = 0

def happens(what):
    global count
    count += what == moment
    if what == moment and count == number:
        return True
    return False

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Killer(Progress):
    def step_done(self, num_images, loss):
        if happens("step"):
            die()
    def batch_predicted(self, num_images):
        if happens("batch"):
            die()

def write_half(path, data):
    if happens("checkpoint"):
        path.with_name(path.name + ".part").write_bytes(data[: len(data) // 2])
        die()
    if happens("torn"):
        path.write_bytes(data[: len(data) // 2])
        die()
    whole(path, data)

whole = clbench.runs.checkpoint.write_bytes
clbench.runs.checkpoint.write_bytes = write_half
places = Places(None, cache)
runs = [folder for folder in out.iterdir()] if out.exists() else []
if runs:
    resume(runs[0], places=places, progress=Killer())
else:
    spec = RunSpec.from_toml((cache / "spec.toml").read_text())
    execute(spec, out=out, places=places, progress=Killer(), command="clbench run")
"""

# Each goes on from where the one before was killed: in the first task, in the second, in its evaluation.
MOMENTS = [("step", 5), ("checkpoint", 1), ("torn", 2), ("step", 3), ("batch", 3)]


def small_spec(**strategy: object) -> RunSpec:
    return resolve(
        {
            "stream": {"name": "split-digits", "tasks": "2", "train_per_class": 8, "test_per_class": 6},
            "strategy": {"name": "lae-adapter", "epochs": 2, "frozen_epochs": 1, "batch_size": 8, **strategy},
            "backbone": {"weights": "none"},
            "run": {"checkpoint_every": 2, "eval_batch_size": 16},
        }
    )


def assert_equal_records(one: Record, other: Record) -> None:
    for name in ("metrics.json", "matrix.json", "hashes.json", "spec.toml"):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name
    first, second = one.predictions(), other.predictions()
    for name, values in first.items():
        has_gaps = values.dtype.kind == "f"  # NaN, where there is no old class yet
        assert np.array_equal(values, second[name], equal_nan=has_gaps), name
    weights, others = load_checkpoint(one.path / "checkpoint"), load_checkpoint(other.path / "checkpoint")
    assert weights is not None
    assert others is not None
    assert weights.tensors.keys() == others.tensors.keys()
    for name, tensor in weights.tensors.items():
        assert torch.equal(tensor, others.tensors[name]), name


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are split among threads: both runs need the same number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_run_killed_again_and_again_leaves_the_same_record(tmp_path: Path):
    places = Places(None, tmp_path)
    undisturbed = execute(
        small_spec(), out=tmp_path / "whole", places=places, progress=Progress(), command="clbench run"
    )
    (tmp_path / "spec.toml").write_text(small_spec().to_toml())
    arguments = [str(tmp_path / "killed"), str(tmp_path)]
    for moment, number in MOMENTS:
        process = subprocess.run(
            [sys.executable, "-c", KILLED_RUN, moment, str(number), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == -signal.SIGKILL, process.stderr
    (folder,) = (tmp_path / "killed").iterdir()
    assert not Record.open(folder).is_finished
    assert_equal_records(undisturbed, resume(folder, places=places, progress=Progress()))


@pytest.mark.parametrize(
    "strategy",
    ["joint-lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lae-prefix", "naive-full"))],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    tmp_path: Path, strategy: str, interrupted: Callable[[int], Progress]
):
    options = {"name": strategy} if strategy.startswith("lae") else {"name": strategy, "epochs": 2}
    sections = small_spec().to_dict()
    spec = resolve(
        {
            "stream": sections["stream"],
            "backbone": sections["backbone"],
            "strategy": {"epochs": 2, "batch_size": 8, **options},
            "run": sections["run"],
        }
    )
    places = Places(None, tmp_path)
    whole = execute(spec, out=tmp_path / "whole", places=places, progress=Progress(), command="")
    with pytest.raises(KeyboardInterrupt):
        execute(spec, out=tmp_path / "stopped", places=places, progress=interrupted(7), command="")
    (folder,) = (tmp_path / "stopped").iterdir()
    assert_equal_records(whole, resume(folder, places=places, progress=Progress()))


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, interrupted: Callable[[int], Progress]):
    places = Places(None, tmp_path)
    record = execute(small_spec(epochs=1), out=tmp_path, places=places, progress=Progress(), command="")
    before = {path: path.read_bytes() for path in record.path.rglob("*") if path.is_file()}
    resume(record.path, places=places, progress=interrupted(1))
    assert {path: path.read_bytes() for path in record.path.rglob("*") if path.is_file()} == before


def test_costs_of_a_resumed_run_cover_the_whole_run(tmp_path: Path, interrupted: Callable[[int], Progress]):
    places = Places(None, tmp_path)
    whole = execute(small_spec(), out=tmp_path / "whole", places=places, progress=Progress(), command="")
    with pytest.raises(KeyboardInterrupt):
        execute(small_spec(), out=tmp_path / "stopped", places=places, progress=interrupted(9), command="")
    (folder,) = (tmp_path / "stopped").iterdir()
    resumed = resume(folder, places=places, progress=Progress())
    one, other = (json.loads((record.path / "costs.json").read_text()) for record in (whole, resumed))
    assert one["flops"] == other["flops"]
    assert one["parameters"] == other["parameters"]


def test_a_run_that_was_begun_before_the_move_goes_on(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "before-the-move"
    shutil.copytree(checkout / "tests" / "runs" / "older-records" / folder.name, folder)
    before, places = Record.open(folder).read_json("matrix.json")["accuracy"], Places(None, tmp_path)
    record = resume(folder, places=places, progress=Progress())
    assert record.is_finished
    after = record.read_json("matrix.json")["accuracy"]
    assert after[:2] == before[:2]
    monkeypatch.setattr("clbench.backbones.creation.architecture", lambda name: FirstViTMicro())
    anew = execute(record.spec, out=tmp_path, places=places, progress=Progress(), command="")
    same = record.predictions()["prediction"] == anew.predictions()["prediction"]
    assert same.mean() > 0.9  # all of them, where the processor adds up in the same order


def test_a_strategy_file_that_computes_something_else_is_no_former_one():
    module, digest = "clbench.strategies.er", FORMER_SOURCES["er"][0]
    assert is_former(digest, module)
    assert not is_former("0" * 64, module)
    assert not is_former(digest, "clbench.strategies.naive")
    assert not is_former(digest, "clbench_file_er_0123abcd")  # a copy of somebody's own
