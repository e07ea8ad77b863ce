"""Processes that meet at one record, one folder or one cache do not spoil it for each other."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clbench.records.record import Record
from clbench.records.resolving import resolve

TIMES = int(os.environ.get("CLBENCH_TORTURE", "1"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A small run that keeps features of a frozen backbone."""
    file = tmp_path / "spec.toml"
    spec = resolve(
        {
            "stream": {"name": "split-digits", "tasks": 3, "train_per_class": 30, "test_per_class": 10},
            "strategy": {"name": "ranpac"},
            "run": {"device": "cpu", "eval_batch_size": 16},
        }
    )
    file.write_text(spec.to_toml())
    return file


def begun(folder: Path, *words: str, cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "clbench", *words]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    told = process.communicate(timeout=240)[1]
    return process.returncode, told


def numbers(folder: Path) -> list[dict[str, float]]:
    records = [Record.open(path) for path in sorted((folder / "runs").iterdir())]
    return [record.read_json("metrics.json") for record in records]


@pytest.mark.slow  # processes that start at once
@pytest.mark.timeout(900)
def test_two_runs_that_fill_one_cache_give_the_numbers_of_one_alone(
    tmp_path: Path, config: Path, record_property: Callable[[str, object], None]
) -> None:
    words, chance = ("run", "--config", str(config)), random.Random("cache")
    assert ended(begun(tmp_path, *words, cache=tmp_path / "own"))[0] == 0
    (alone,) = numbers(tmp_path)
    num_killed = 0
    for time_round in range(2 * TIMES - 1):
        place, cache = tmp_path / f"round-{time_round}", tmp_path / f"cache-{time_round}"
        place.mkdir()
        both = [begun(place, *words, cache=cache) for _ in range(2)]
        if time_round % 2 == 0:  # one is killed while it may be writing
            while not list(cache.rglob("*.safetensors*")) and both[0].poll() is None:
                time.sleep(0.002)
            time.sleep(chance.random() * 0.1)
            both[0].send_signal(signal.SIGKILL)
            num_killed += 1
        codes = [ended(each) for each in both]
        assert codes[1][0] == 0, codes[1][1]
        finished = [Record.open(path) for path in (place / "runs").iterdir() if path.suffix != ".tmp"]
        metrics = [each.read_json("metrics.json") for each in finished if each.is_finished]
        assert len(metrics) == 2 if codes[0][0] == 0 else len(metrics) >= 1
        assert all(each == alone for each in metrics)
        assert not any(record.changes() for record in finished if record.is_finished)
    told = f"{2 * TIMES - 1} pairs of runs began with one empty cache, in {num_killed} one was killed"
    record_property("torture", f"{told}: the same numbers")


@pytest.mark.slow  # processes that start at once
@pytest.mark.timeout(900)
def test_one_of_two_that_go_on_with_a_record_writes_it(
    tmp_path: Path, config: Path, record_property: Callable[[str, object], None]
) -> None:
    cache = tmp_path / "cache"
    assert ended(begun(tmp_path, "run", "--config", str(config), cache=cache))[0] == 0
    (alone,) = numbers(tmp_path)
    refused = 0
    for time_round in range(TIMES):
        place = tmp_path / f"round-{time_round}"
        place.mkdir()
        process = begun(place, "run", "--config", str(config), cache=cache)
        while not list(place.glob("runs/*/predictions/*")):
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
        process.communicate()
        (folder,) = (path for path in (place / "runs").iterdir() if path.suffix != ".tmp")
        both = [ended(each) for each in [begun(place, "resume", str(folder), cache=cache) for _ in range(2)]]
        assert 0 in [code for code, _ in both]
        for code, told in both:
            if code:
                (line,) = (each for each in told.splitlines() if each.startswith("error: "))
                assert "is being written by process" in line
                refused += 1
        assert numbers(place) == [alone]
        assert not Record.open(folder).changes()
    record_property("torture", f"{TIMES} records resumed by two at once: one wrote, {refused} were told so")
