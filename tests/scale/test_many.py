"""Of several runs only what is left is done, none ends another, and what is there is recognised."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clbench.data.tasks import Places
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.runs.line import execute
from clbench.scale.course import Course
from clbench.scale.plan import planned
from clbench.scale.pool import run_all
from clbench.scale.worker import Job

SMALL = {"tasks": 2, "train_per_class": 4, "test_per_class": 2}


def spec_of(strategy: str, seed: int = 0, **options: Any) -> RunSpec:
    run = {"seed": seed, "device": "cpu"}
    return resolve({"stream": SMALL, "strategy": {"name": strategy, **options}, "run": run})


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(cache_dir=tmp_path / "cache")


def test_what_is_finished_or_stopped_is_found_by_its_id(
    tmp_path: Path, places: Places, interrupted: Callable[[int], Progress]
) -> None:
    specs = [spec_of("simplecil"), spec_of("naive", epochs=1), spec_of("simplecil", 1)]
    done = execute(specs[0], out=tmp_path, places=places)
    with pytest.raises(KeyboardInterrupt):
        execute(specs[1], out=tmp_path, places=places, progress=interrupted(1))
    plan = planned(specs, tmp_path)
    assert [each.is_finished for each in plan] == [True, False, False]
    assert [each.record is not None for each in plan] == [True, True, False]
    assert plan[0].record == done
    assert not any(each.record for each in planned(specs, tmp_path, again=True))
    (done.path / "spec.toml").write_text(spec_of("simplecil", 7).to_toml())  # another's under its name
    assert planned(specs, tmp_path)[0].record is None


@pytest.mark.parametrize("spoilt", ["hashes.json", "spec.toml"])
def test_what_cannot_be_told_to_be_the_same_is_done_anew(spoilt: str, tmp_path: Path, places: Places) -> None:
    record = execute(spec_of("simplecil"), out=tmp_path, places=places)
    (record.path / spoilt).write_text("{")
    assert planned([record.spec], tmp_path)[0].record is None


def test_a_strategy_or_module_that_was_edited_since_is_run_anew(tmp_path: Path, places: Places) -> None:
    strategy, module = tmp_path / "mine.py", tmp_path / "module.py"
    strategy.write_text("from clbench.strategies.simplecil import SimpleCIL as Mine\n")
    module.write_text("from clbench.petl.linear import Linear as Own\n")
    sections = {"stream": SMALL, "strategy": {"name": f"{strategy}:Mine"}, "run": {"device": "cpu"}}
    spec = resolve({**sections, "petl": {"name": f"{module}:Own"}})
    record = execute(spec, out=tmp_path / "runs", places=places)
    assert planned([spec], tmp_path / "runs")[0].is_finished
    later = record.path.stat().st_mtime + 100
    os.utime(module, (later, later))
    assert planned([spec], tmp_path / "runs")[0].record is None


@pytest.mark.slow  # each of four processes imports torch
def test_runs_in_processes_end_as_runs_here_and_none_ends_another(tmp_path: Path, places: Places) -> None:
    crash = tmp_path / "crash.py"
    crash.write_text(
        "import os, signal\n"
        "from dataclasses import dataclass\n"
        "from clbench.strategies.simplecil import SimpleCIL\n"
        "@dataclass\n"
        "class Bug(SimpleCIL):\n"
        "    def end_task(self, task, images):\n"
        "        raise ZeroDivisionError('oh')\n"
        "@dataclass\n"
        "class Kill(SimpleCIL):\n"
        "    def end_task(self, task, images):\n"
        "        print('last words', flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    specs = [spec_of(f"{crash}:Kill"), spec_of(f"{crash}:Bug"), spec_of("naive", epochs=1)]
    courses = [Course(spec.strategy.name) for spec in specs]
    run_all(
        [Job(spec, tmp_path / "pool", places) for spec in specs],
        num_processes=2,
        num_threads=1,
        hear=lambda job, *message: courses[job].hear(*message),
        tick=lambda: None,
    )
    killed, failed, done = courses
    assert [course.state for course in courses] == ["failed", "failed", "finished"]
    assert killed.reason == "its process ended with signal 9"
    assert killed.details == "last words"
    assert failed.reason.endswith("ZeroDivisionError: oh")
    assert "crash.py:7" in failed.reason
    assert done.folder is not None
    here = execute(specs[2], out=tmp_path / "here", places=places)
    there = Record.open(done.folder)
    assert there.read_json("metrics.json") == here.read_json("metrics.json")
    assert there.read_json("environment.json")["machine"]["torch_threads"] == 1


def test_a_course_says_how_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("clbench.scale.course.time.monotonic", lambda: now)
    course = Course("er seed 0")
    course.hear("starting")
    course.hear("started", Path("runs/er"), 4)
    course.hear("at", 1, 0.0)  # it was stopped after the first task, and goes on
    now = 110.0
    course.hear("at", 1, 0.5)
    assert course.done == 0.375
    assert course.seconds_left == pytest.approx(10 / 0.125 * 0.625)
    course.hear("learnt", 1, [0.5, float("nan"), 0.7])
    assert course.accuracy == pytest.approx(0.6)
    course.hear("finished", Path("runs/er"))
    assert course.seconds_left != course.seconds_left
