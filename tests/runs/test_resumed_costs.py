"""Neither a stop nor the cache of features shows in what a run comes to, whatever the strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clbench
from clbench import strategies
from clbench.options import option_types
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.runs.line import execute, resume

pytestmark = pytest.mark.usefixtures("no_figures")

QUICK = {"epochs": 2, "batch_size": 8, "memory_size": 20}
OWN: dict[str, dict[str, Any]] = {  # what else makes a few steps enough
    "avalanche.er-aml": {"memory_size": 40},
    "avalanche.mer": {"num_rounds": 1},
    "lae": {"frozen_epochs": 1},
    "ranpac": {"projection": 64},
    "scr": {"replay_batch": 0, "temperature": 0.5},
}
# Each makes several runs. Those of Avalanche begin anew when they are resumed.
NAMES = [name for name in strategies.names() if not name.startswith("avalanche.")]


class Stopped(Progress):
    """Stops a run as Ctrl-C does: at the nth step, or where a task begins, is looked at or is evaluated."""

    def __init__(self, *, step: int = 0, beginning: int = -1, look: int = -1, evaluation: int = -1) -> None:
        self.step, self.beginning, self.look, self.evaluation = step, beginning, look, evaluation
        self.task = self.num_left = 0  # steps of the task

    def task_started(self, task: int, classes: list[str], num_images: int) -> None:
        self.task = task
        if task == self.beginning:
            raise KeyboardInterrupt

    def epoch_started(self, epoch: int, num_epochs: int, num_done: int, num_steps: int) -> None:
        self.num_left = num_steps * (num_epochs - epoch) - num_done

    def step_done(self, num_images: int, loss: torch.Tensor) -> None:
        self.step -= 1
        self.num_left -= 1
        if self.step == 0:
            raise KeyboardInterrupt

    def batch_predicted(self, num_images: int) -> None:
        if self.task == (self.look if self.num_left else self.evaluation):
            raise KeyboardInterrupt


def spec_of(name: str, augment: str = "", *, exact: bool = False, **chosen: Any) -> clbench.RunSpec:
    allowed = option_types(strategies.get(name))
    wanted = {**QUICK, **OWN.get(name, {}), **chosen}
    options = {key: value for key, value in wanted.items() if key in allowed}
    stream: dict[str, Any] = {"name": "split-digits", "tasks": "2", "train_per_class": 6, "test_per_class": 3}
    if "task-identity" in strategies.get(name).needs:
        stream["scenario"] = "task"
    if augment:
        stream["augment"] = augment
    return clbench.resolve(
        {
            "stream": stream,
            "strategy": {"name": name, **options},
            "backbone": {"name": "vit-micro", "weights": "none"},
            "run": {
                "checkpoint_every": 1,
                "eval_batch_size": 16,
                "eval_every": 3,
                "eval_images": 2,
                "exact": exact,
            },
        }
    )


def spent(record: Record) -> dict[str, Any]:
    """Return all costs but times, energy and peaks of memory."""
    costs = record.read_json("costs.json")
    images = {name: costs["time"].get(name, {}).get("images") for name in ("train", "evaluate", "watch")}
    rest = {name: value for name, value in costs.items() if name not in ("time", "memory", "energy")}
    measured = ("seconds", "energy")
    by_task = [{name: task[name] for name in task if name not in measured} for task in costs["by_task"]]
    return {**rest, "images": images, "by_task": by_task}


def is_stopped(spec: clbench.RunSpec, out: Path, places: clbench.Places, stop: Stopped) -> bool:
    """Begin a run, or go on with it, until it is stopped; return whether it was."""
    try:
        if out.exists():
            resume(next(out.iterdir()), places=places, progress=stop)
        else:
            execute(spec, out=out, places=places, progress=stop)
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in NAMES), ("lae", {"frozen_epochs": 2})],  # frozen to the end of a task
)
def test_a_run_stopped_in_and_between_tasks_has_the_costs_of_an_undisturbed_one(
    name: str, options: dict[str, Any], tmp_path: Path
):
    spec = spec_of(name, **options)
    whole = execute(spec, out=tmp_path / "whole", places=clbench.Places(None, tmp_path / "one"))
    places = clbench.Places(None, tmp_path / "other")
    stops = [  # where nothing is learnt in steps, in the evaluation each time
        Stopped(step=2, evaluation=0),
        Stopped(look=0, evaluation=0),
        Stopped(step=3, evaluation=0),
        Stopped(evaluation=0),
        Stopped(beginning=1),
        Stopped(step=2, evaluation=1),
        Stopped(look=1, evaluation=1),
        Stopped(step=3, evaluation=1),
        Stopped(evaluation=1),
    ]
    num_stops, out = 0, tmp_path / "stopped"
    for stop in stops:
        num_stops += is_stopped(spec, out, places, stop)
    assert num_stops == len(stops) or name == "joint"  # which learns but once
    resumed = resume(next(out.iterdir()), places=places)
    one, other = spent(whole), spent(resumed)
    assert one.keys() == other.keys()
    for cost, value in one.items():
        assert other[cost] == value, cost
    for file in ("metrics.json", "matrix.json"):
        assert (whole.path / file).read_bytes() == (resumed.path / file).read_bytes()
    anytime, again = whole.anytime(), resumed.anytime()
    assert anytime is not None
    assert again is not None
    assert all(values.tolist() == again[column].tolist() for column, values in anytime.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_without_a_cache_predicts_the_same(name: str, tmp_path: Path):
    """Training images are looked up, too, where they are not augmented."""
    cached, computed = (
        execute(
            spec_of(name, augment="none", exact=exact),
            out=tmp_path / str(exact),
            places=clbench.Places(None, tmp_path / "features"),
        )
        for exact in (False, True)
    )
    tables = [(cached.predictions(), computed.predictions()), (cached.anytime(), computed.anytime())]
    for one, other in tables:
        assert one is not None
        assert other is not None
        for column, values in one.items():
            np.testing.assert_array_equal(values, other[column], err_msg=column)
