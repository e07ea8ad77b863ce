"""Share learners between the tests of this folder: small runs on coloured squares, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import clbench
from clbench import strategies
from clbench.deploy.learner import Learner
from clbench.options import option_types

OLDEST_TORCH = (2, 9)  # that tracing is tested with; an older one is quoted where it traces nothing

SMALL = {"epochs": 2, "batch_size": 8, "memory_size": 20}
OWN = {  # what a strategy wants where the data are so few
    "avalanche.er-aml": {"memory_size": 40},
    "avalanche.mer": {"num_rounds": 1},
    "lae": {"frozen_epochs": 1},
    "ranpac": {"projection": 64},
    "scr": {"replay_batch": 0},
}
TASK_WISE = ("confit",)  # has to be told the task


@pytest.fixture
def can_trace() -> None:
    """Skip where torch is older than what a learner's graph is made for."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        pytest.skip(f"torch {torch.__version__} traces otherwise")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of images of 8 pixels whose four classes differ in colour, with noise."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 14)
    colours = random.integers(40, 216, size=(4, 1, 1, 3))
    images = (colours[labels] + random.integers(-40, 40, size=(56, 8, 8, 3))).clip(0, 255).astype(np.uint8)
    is_test = np.arange(56) % 14 >= 10
    file = tmp_path_factory.mktemp("squares") / "squares.npz"
    np.savez(
        file,
        train_x=images[~is_test],
        train_y=labels[~is_test],
        test_x=images[is_test],
        test_y=labels[is_test],
        names=np.array(["red", "green", "blue", "grey"]),
    )
    return file


@pytest.fixture(scope="session")
def pictures(squares: Path) -> NDArray[np.uint8]:
    """The images that no learner has seen."""
    with np.load(squares) as arrays:
        return arrays["test_x"]


@pytest.fixture(scope="session")
def learn(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Learner]:
    """A function that trains a strategy on two tasks of squares and opens what it has learnt."""
    known: dict[str, Path] = {}

    def learnt(name: str, backbone: str = "vit-micro", **settings: dict[str, object]) -> Learner:
        key = f"{name} {backbone} {settings}"
        if key not in known:
            plain = strategies.split(name)[0]
            options = {**SMALL, **OWN.get(plain, {})}
            has = option_types(strategies.get(name))
            strategy = {option: value for option, value in options.items() if option in has}
            scenario = {"scenario": "task"} if plain in TASK_WISE else {}
            stream = {"name": f"npz:{squares}", "tasks": "2", "validation_rate": 0, **scenario}
            weights = {} if backbone == "vit-micro" else {"weights": "none"}
            values: dict[str, dict[str, object]] = {
                "strategy": {"name": name, **strategy},
                "backbone": {"name": backbone, **weights},
                "stream": stream,
            }
            for section, chosen in settings.items():
                values[section] = {**values.get(section, {}), **chosen}
            spec = clbench.resolve(values)
            known[key] = clbench.execute(spec, out=tmp_path_factory.mktemp("runs")).path
        return clbench.load(known[key])

    return learnt
