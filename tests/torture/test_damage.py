"""A bit that flips in a record, or an end that is cut off, is noticed or harmless: never another number."""

from __future__ import annotations

import os
import random
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clbench
from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.report import report
from clbench.runs.line import execute, resume

CHANGES = int(os.environ.get("CLBENCH_TORTURE", "1"))  # of each kind, of each file
BOTH = ("er", "lae")  # with a memory, and with two modules
FINISHED, STOPPED = (BOTH, BOTH) if CHANGES > 1 else (BOTH[:1], BOTH[1:])
UNNOTED = {  # what says nothing about a number: times, and what was typed
    "events.jsonl",
    "command.txt",
}

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)


def spec_of(strategy: str) -> RunSpec:
    return resolve(
        {
            "stream": {"name": "split-digits", "tasks": 2, "train_per_class": 6, "test_per_class": 3},
            "strategy": {"name": strategy, "epochs": 1, "batch_size": 8},
            "run": {"device": "cpu", "probe_images": 1, "eval_every": 4, "checkpoint_every": 2},
        }
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(cache_dir=tmp_path_factory.mktemp("cache"))


def spoilt(data: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes with a bit flipped, and then cut off, each time in another place."""
    for _ in range(CHANGES):
        place = chance.randrange(len(data))
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        yield f"bit of byte {place} flipped", bytes(flipped)
        place = chance.choice([0, chance.randrange(len(data))])
        yield f"cut at {place}", data[:place]


def all_said(folder: Path, out: Path, caplog: pytest.LogCaptureFixture) -> tuple[dict[str, Any], list[str]]:
    """Return every number that a record gives, and every word that is said about it."""
    caplog.clear()
    numbers: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        record = Record.open(folder)
        comparison = report([folder], out)
        frame = clbench.load_runs(folder)
        numbers["metrics"] = record.read_json("metrics.json")
        numbers["costs"] = record.read_json("costs.json")
        numbers["matrix"] = record.read_json("matrix.json")
        numbers["predictions"] = {k: v.tolist() for k, v in record.predictions().items()}
        numbers["probe"] = probed(record)
        numbers["frames"] = [frame.metrics.to_csv(), frame.costs.to_csv(), frame.matrix.to_csv()]
        told = record.changes()
    said = [str(each.message) for each in warned]
    return numbers, [*told, *comparison.notes, *said, *caplog.messages]


@pytest.mark.slow  # a report for every change of every file
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", FINISHED)
def test_a_damaged_record_says_so_or_says_the_same(
    strategy: str,
    tmp_path: Path,
    places: Places,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
) -> None:
    record = execute(spec_of(strategy), out=tmp_path / "runs", places=places)
    sound, usual = all_said(record.path, tmp_path / "report", caplog)
    chance, came = random.Random(f"damage {strategy}"), Counter[str]()
    for file in files_of(record.path):
        data = file.read_bytes()
        for how, other in spoilt(data, chance):
            if other == data:
                continue
            file.write_bytes(other)
            where = f"{file.relative_to(record.path)}: {how}"
            try:
                numbers, said = all_said(record.path, tmp_path / "report", caplog)
            except UserError as error:
                check_line(str(error), where)
                came["refused in one line"] += 1
            else:
                if said == usual:  # nobody was told of it
                    assert same(numbers, sound), where
                    came["harmless, and not told"] += 1
                else:
                    came["told of"] += 1
        file.write_bytes(data)
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(came.items()))
    record_property("torture", f"finished {strategy}: {sum(came.values())} changes of files: {told}")
    assert came["refused in one line"] + came["told of"] > 10


@pytest.mark.slow  # a run is resumed for every change of every file
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", STOPPED)
def test_a_damaged_record_goes_on_to_the_same_end_or_not_at_all(
    strategy: str,
    tmp_path: Path,
    places: Places,
    interrupted: Callable[[int], Progress],
    record_property: Callable[[str, object], None],
) -> None:
    whole = execute(spec_of(strategy), out=tmp_path / "whole", places=places)
    with pytest.raises(KeyboardInterrupt):
        execute(spec_of(strategy), out=tmp_path / "stopped", places=places, progress=interrupted(5))
    (stopped,) = (tmp_path / "stopped").iterdir()
    chance, came = random.Random(f"stopped {strategy}"), Counter[str]()
    for file in files_of(stopped):
        for how, other in spoilt(file.read_bytes(), chance):
            twin = tmp_path / "twin"
            shutil.copytree(stopped, twin)
            (twin / file.relative_to(stopped)).write_bytes(other)
            where = f"{file.relative_to(stopped)}: {how}"
            try:
                record = resume(twin, places=places)
            except UserError as error:
                check_line(str(error), where)
                came["refused in one line"] += 1
            else:
                assert same(record.read_json("metrics.json"), whole.read_json("metrics.json")), where
                pairs = zip(record.predictions().values(), whole.predictions().values(), strict=True)
                assert all(np.array_equal(*pair, equal_nan=True) for pair in pairs), where
                came["gone on with to the same end"] += 1
            shutil.rmtree(twin)
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(came.items()))
    record_property("torture", f"stopped {strategy}: {sum(came.values())} changes of files: {told}")
    assert came["gone on with to the same end"] > 2


@pytest.mark.slow  # a learner is loaded for every change of every file
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", STOPPED)
def test_a_damaged_learner_says_so_or_answers_the_same(
    strategy: str,
    tmp_path: Path,
    places: Places,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
) -> None:
    record = execute(spec_of(strategy), out=tmp_path / "runs", places=places)
    sound, usual = answered(record.path, places, caplog)
    chance, came = random.Random(f"learner {strategy}"), Counter[str]()
    for file in files_of(record.path):
        data = file.read_bytes()
        for how, other in spoilt(data, chance):
            if other == data:
                continue
            file.write_bytes(other)
            where = f"{file.relative_to(record.path)}: {how}"
            try:
                answers, said = answered(record.path, places, caplog)
            except UserError as error:
                check_line(str(error), where)
                came["refused in one line"] += 1
            else:
                if said == usual:  # nobody was told of it
                    assert answers == sound, where
                    came["harmless, and not told"] += 1
                else:
                    came["told of"] += 1
        file.write_bytes(data)
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(came.items()))
    record_property("torture", f"learner of {strategy}: {sum(came.values())} changes of files: {told}")
    assert came["refused in one line"] > 2
    assert came["harmless, and not told"] > 2


def answered(
    folder: Path, places: Places, caplog: pytest.LogCaptureFixture
) -> tuple[list[object], list[str]]:
    """Return what the learner of a record answers, bit by bit, and every word that is said about it."""
    caplog.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        given = clbench.load(folder, places=places).predict(IMAGES)
    said = [*(str(each.message) for each in warned), *caplog.messages]
    return [given.scores.numpy().tobytes(), list(given.class_names)], said


def probed(record: Record) -> str:
    """Return the features of the probe set, number by number."""
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return repr(record.representations())


def check_line(told: str, where: str) -> None:
    assert told.strip(), where
    assert "\n" not in told, where


def files_of(folder: Path) -> list[Path]:
    """Return the files of a record that say anything of a number; pictures and words aside."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".png")
    return [path for path in found if path.name not in UNNOTED and path.stat().st_size]


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)  # NaN is itself here
