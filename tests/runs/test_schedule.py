"""What changes while a task is learnt knows how far the learning is, also in a run that was stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clbench.data.inputs import Batch
from clbench.petl.scheduled import Scheduled, scheduled
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.runs.checkpoint import load_checkpoint
from clbench.runs.line import execute, resume
from clbench.strategies import Strategy
from clbench.streams import Places

pytestmark = pytest.mark.usefixtures("no_figures")

# Begins a run and kills itself with SIGKILL after a number of steps.
KILLED_RUN = """
import os, signal, sys
from pathlib import Path
import torch
from clbench.records.progress import Progress
from clbench.runs.line import execute
from clbench.records.spec import RunSpec
from clbench.streams import Places

out, steps = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)

class Killer(Progress):
    steps_left = steps
    def step_done(self, num_images, loss):
        self.steps_left -= 1
        if not self.steps_left:
            os.kill(os.getpid(), signal.SIGKILL)

spec = RunSpec.from_toml((out / "spec.toml").read_text())
execute(spec, out=out / "killed", places=Places(None, out), progress=Killer(), command="")
"""


def small_spec(strategy: str) -> RunSpec:
    """Two tasks of two epochs of four steps."""
    return resolve(
        {
            "stream": {"name": "split-digits", "tasks": "2", "train_per_class": 8, "test_per_class": 6},
            "strategy": {"name": strategy, "epochs": 2, "batch_size": 8},
            "backbone": {"weights": "none"},
            "run": {"checkpoint_every": 2, "eval_batch_size": 16},
        }
    )


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums are split among threads: both runs need the same number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The progress of every step that is made from now on."""
    values: list[float] = []

    def note(strategy: Strategy, batch: Batch) -> None:
        values.extend({float(part.progress) for part in scheduled(strategy.parts().values())})

    monkeypatch.setattr(Strategy, "after_step", note)
    return values


def run(spec: RunSpec, folder: Path, progress: Progress) -> Record:
    return execute(spec, out=folder / "runs", places=Places(None, folder), progress=progress, command="")


@pytest.fixture(scope="module")
def whole(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A run that nothing disturbed."""
    return run(small_spec("naive-moe-lora"), tmp_path_factory.mktemp("whole"), Progress())


def kept(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(folder / "checkpoint")
    assert checkpoint is not None
    return checkpoint.tensors


def progress_kept(folder: Path) -> set[float]:
    return {float(value) for name, value in kept(folder).items() if name.endswith(".progress")}


def assert_equal_runs(one: Record, other: Record) -> None:
    first, second = one.predictions(), other.predictions()
    for name, values in first.items():
        has_gaps = values.dtype.kind == "f"  # NaN, where there is no old class yet
        assert np.array_equal(values, second[name], equal_nan=has_gaps), name
    tensors, others = kept(one.path), kept(other.path)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


def test_scheduled_parts_are_found_at_any_depth_and_once() -> None:
    part = Scheduled()
    assert scheduled([nn.Sequential(nn.Linear(1, 1), nn.ModuleList([part, part]))]) == [part]
    assert float(part.progress) == 0


# Stopped in the nth step, a run goes on from its last checkpoint: after 2 and after all 4 steps of an epoch.
@pytest.mark.parametrize(("stopped_in", "done"), [(8, 6), pytest.param(11, 10, marks=pytest.mark.slow)])
def test_progress_is_right_inside_a_resumed_epoch(
    tmp_path: Path,
    whole: Record,
    seen: list[float],
    stopped_in: int,
    done: int,
    interrupted: Callable[[int], Progress],
) -> None:
    each_step = [step / 8 for step in range(8)] * 2  # it begins again with every task
    with pytest.raises(KeyboardInterrupt):
        run(small_spec("naive-moe-lora"), tmp_path, interrupted(stopped_in))
    assert seen == each_step[:stopped_in]
    seen.clear()
    (folder,) = (tmp_path / "runs").iterdir()
    resumed = resume(folder, places=Places(None, tmp_path), progress=Progress())
    assert seen == each_step[done:]
    assert progress_kept(folder) == {1}
    assert_equal_runs(whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["naive-moe-lora", "lae-moe-lora"])
def test_a_killed_run_with_a_fading_router_goes_on_bit_for_bit(tmp_path: Path, strategy: str) -> None:
    spec = small_spec(strategy)
    whole = run(spec, tmp_path, Progress())
    (tmp_path / "spec.toml").write_text(spec.to_toml())
    process = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(tmp_path), "15"], capture_output=True, text=True, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    (folder,) = (tmp_path / "killed").iterdir()
    assert progress_kept(folder) == {5 / 8}  # of the sixth step of the second task
    assert_equal_runs(whole, resume(folder, places=Places(None, tmp_path), progress=Progress()))


# In the second task, and in the first, which it starts in.
@pytest.mark.slow
@pytest.mark.parametrize("stopped_in", [11, 3])
def test_a_module_that_starts_from_the_loss_does_so_once(
    tmp_path: Path, stopped_in: int, interrupted: Callable[[int], Progress]
) -> None:
    spec = small_spec("naive-peft.lora-ga")
    undisturbed = run(spec, tmp_path / "undisturbed", Progress())
    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path, interrupted(stopped_in))
    (folder,) = (tmp_path / "runs").iterdir()
    checkpoint = load_checkpoint(folder / "checkpoint")
    assert checkpoint is not None
    assert [float(value) for name, value in checkpoint.tensors.items() if name.endswith("started")] == [1.0]
    assert_equal_runs(undisturbed, resume(folder, places=Places(None, tmp_path), progress=Progress()))
