"""Under a budget a memory gets what is left, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from clbench import strategies
from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.options import option_types
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.sizes import bytes_of
from clbench.records.spec import MEMORY, RunSpec
from clbench.runs.budget import BudgetError, NoRoomError, fitted, refuse_over
from clbench.runs.line import execute, resume

STREAM = {"name": "split-digits", "tasks": 2, "train_per_class": 20, "test_per_class": 3}
NUM_IMAGES = 10 * 18  # of each class, 2 of 20 are held out
EXEMPLAR = 3 * 8 * 8 + 3 * 8  # a picture of 8 x 8 pixels in three channels; label, task and row
COUNTERS = 16  # of a memory: how many it holds and has seen
QUICK = {"epochs": 1, "batch_size": 8, "first_session_epochs": 1}
WITH_MEMORY = [
    name
    for name in strategies.names()
    if MEMORY in option_types(strategies.get(name)) and not name.startswith("avalanche.")
]


def spec_of(name: str, budget: str, **sections: dict[str, Any]) -> RunSpec:
    strategy = strategies.get(strategies.split(name)[0])
    allowed = option_types(strategy)
    quick = {key: value for key, value in QUICK.items() if key in allowed and name != "confit"}  # needs two
    is_told = {"scenario": "task"} if "task-identity" in strategy.needs else {}
    return resolve(
        {
            "stream": {**STREAM, **is_told, **sections.get("stream", {})},
            "strategy": {"name": name, **quick, **sections.get("strategy", {})},
            "run": {"device": "cpu", "budget": budget, **sections.get("run", {})},
        }
    )


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(cache_dir=tmp_path / "cache")


def kept_after_each_task(record: Record) -> list[int]:
    costs = json.loads((record.path / "costs.json").read_text())
    return [each["stored_bytes_by_kind"]["total"] for each in costs["by_task"]]


def test_a_memory_gets_what_is_left(places: Places) -> None:
    spec, (told,) = fitted(spec_of("er-adapter", "50kB"), places)
    again, _ = fitted(spec_of("er-adapter", "40kB"), places)
    sizes = [int(each.strategy.options[MEMORY]) for each in (spec, again)]  # type: ignore[arg-type]
    # 10,000 bytes more are 46 exemplars more: 10,000 / 216
    assert sizes[0] - sizes[1] in (46, 47)
    assert told.startswith(f"budget 50kB: {sizes[0]} exemplars of {EXEMPLAR} B beside ")
    assert spec.id == spec_of("er-adapter", "50kB").id


def test_bytes_kept_are_under_the_budget_after_every_task(tmp_path: Path, places: Places) -> None:
    record = execute(spec_of("er-adapter", "40kB"), out=tmp_path, places=places)
    kept = kept_after_each_task(record)
    assert max(kept) <= 40_000 < max(kept) + EXEMPLAR + COUNTERS
    told = (record.path / "events.jsonl").read_text("utf-8")
    assert f"budget 40kB: {record.spec.strategy.options[MEMORY]} exemplars" in told


def test_a_memory_never_has_more_room_than_there_are_images(places: Places) -> None:
    spec, _ = fitted(spec_of("er-adapter", "1GB"), places)
    assert spec.strategy.options[MEMORY] == NUM_IMAGES


def test_a_strategy_without_a_memory_stays_what_it_is(places: Places) -> None:
    spec, (told,) = fitted(spec_of("simplecil", "1MB"), places)
    assert spec == spec_of("simplecil", "1MB")
    assert told == "budget 1MB: simplecil keeps 10.3 kB (prototypes 10.3 kB)"


def test_too_little_is_told_before_anything_is_learnt(tmp_path: Path, places: Places) -> None:
    with pytest.raises(BudgetError, match=r"^strategy simplecil keeps 10.3 kB .*, over run.budget=2kB$"):
        execute(spec_of("simplecil", "2kB"), out=tmp_path / "runs", places=places)
    told = r"^run.budget=16.6kB leaves strategy er no room for an exemplar of 216 B beside 16.5 kB \(.*\)$"
    with pytest.raises(NoRoomError, match=told):
        execute(spec_of("er-adapter", "16.6kB"), out=tmp_path / "runs", places=places)
    assert not (tmp_path / "runs").exists()


def test_more_than_was_foreseen_is_refused_when_it_is_kept() -> None:
    spec = spec_of("simplecil", "2kB")
    with pytest.raises(
        BudgetError, match=r"keeps 3.00 kB \(head 3.00 kB\) after task 2, over run.budget=2kB"
    ):
        refuse_over(spec, {"head": 3000, "total": 3000}, 2)
    refuse_over(spec, {"head": 2000, "total": 2000}, 2)


def test_a_stopped_run_keeps_its_memory(
    tmp_path: Path, places: Places, interrupted: Callable[[int], Progress]
) -> None:
    spec = spec_of("er-adapter", "40kB")
    whole = execute(spec, out=tmp_path / "whole", places=places)
    with pytest.raises(KeyboardInterrupt):
        execute(spec, out=tmp_path / "stopped", places=places, progress=interrupted(15))
    (folder,) = (tmp_path / "stopped").iterdir()
    record = resume(folder, places=places)
    assert record.spec == whole.spec
    assert record.read_json("metrics.json") == whole.read_json("metrics.json")


@pytest.mark.slow  # each run is gone through in small, and then done
@pytest.mark.parametrize("name", WITH_MEMORY)
def test_every_memory_keeps_its_budget(name: str, tmp_path: Path, places: Places) -> None:
    record = execute(spec_of(name, "10MB"), out=tmp_path / "all", places=places)
    assert record.spec.strategy.options[MEMORY] == NUM_IMAGES
    most = max(kept_after_each_task(record))
    exemplars = record.read_json("costs.json")["stored_bytes_by_kind"]["exemplars"]
    assert most < 10_000_000
    tight = most - 120 * EXEMPLAR  # those of 120 images fit no more
    record = execute(spec_of(name, f"{tight}B"), out=tmp_path / "tight", places=places)
    assert int(record.spec.strategy.options[MEMORY]) < NUM_IMAGES  # type: ignore[arg-type]
    assert max(kept_after_each_task(record)) <= tight
    few = most - exemplars + 3 * -(-exemplars // NUM_IMAGES)  # three images of ten classes
    with suppress(UserError):  # some cannot do with so few, and say so before anything is learnt
        record = execute(spec_of(name, f"{few}B"), out=tmp_path / "few", places=places)
        assert int(record.spec.strategy.options[MEMORY]) < 10  # type: ignore[arg-type]
        assert max(kept_after_each_task(record)) <= few
    assert record.path.parent.name == "few" or not (tmp_path / "few").exists()


def test_a_memory_may_have_room_for_fewer_than_one_of_each_class(places: Places) -> None:
    spec, (told,) = fitted(spec_of("er-adapter", "17.2kB"), places)
    assert spec.strategy.options[MEMORY] == 3
    assert told.startswith("budget 17.2kB: 3 exemplars of 216 B beside 16.5 kB")
    assert told.endswith("; there are 10 classes")
    with pytest.raises(UserError, match=r"strategy.memory_size: 3 leaves no exemplar for each of"):
        fitted(spec_of("icarl", "31.2kB"), places)


@pytest.mark.slow  # every strategy is set up and goes through the stream in small
@pytest.mark.parametrize("name", [name for name in strategies.names() if "." not in name])
def test_nothing_fits_into_a_hundred_bytes(name: str, places: Places) -> None:
    with pytest.raises(BudgetError, match=rf"^strategy {name} keeps .*B \(.*\), over run.budget=100B$"):
        fitted(spec_of(name, "100"), places)
    assert bytes_of("100") == 100
