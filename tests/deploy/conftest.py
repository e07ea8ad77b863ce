"""Share between the tests of learners: small collections of coloured squares, and runs on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import clbench
from clbench import Learner, Record, RunSpec, execute, resolve, strategies

NUM_TRAIN, NUM_TEST = 14, 6  # images a class
OLDEST_TORCH = (2, 9)  # that tracing is tested with; an older one is quoted where it traces nothing
TASK_WISE = ("confit",)  # has to be told the task


@pytest.fixture(autouse=True)
def draws_nothing(no_figures: None) -> None:
    """Leave the figures of runs out: no learner's concern."""


@pytest.fixture
def squares(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes an npz of squares, a colour a class; classes of one name have equal images."""

    def write(name: str, classes: Sequence[str], size: int = 8) -> Path:
        parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
        for each in classes:
            random = np.random.default_rng(list(each.encode()))
            colour = random.integers(40, 216, (1, 1, 1, 3))
            noise = random.integers(-40, 40, (NUM_TRAIN + NUM_TEST, size, size, 3))
            images = (colour + noise).clip(0, 255).astype(np.uint8)
            parts["train"].append(images[:NUM_TRAIN])
            parts["test"].append(images[NUM_TRAIN:])
        file = tmp_path / name
        np.savez(
            file,
            train_x=np.concatenate(parts["train"]),
            test_x=np.concatenate(parts["test"]),
            train_y=np.repeat(np.arange(len(classes)), NUM_TRAIN),
            test_y=np.repeat(np.arange(len(classes)), NUM_TEST),
            names=np.array(classes),
        )
        return file

    return write


@pytest.fixture
def spec_of(quick_options: Callable[[str], dict[str, Any]]) -> Callable[..., RunSpec]:
    """A function that gives the spec of a short run of a strategy on an npz."""

    def make(file: Path, name: str, tasks: int, **sections: dict[str, Any]) -> RunSpec:
        own_stream = sections.pop("stream", {})
        own_strategy = sections.pop("strategy", {})
        scenario = {"scenario": "task"} if name in TASK_WISE else {}
        backbone = {"name": "slim-resnet18", "image_size": 32} if name in TASK_WISE else {}
        stream = {"name": f"npz:{file}", "tasks": str(tasks), "validation_rate": 0, **scenario, **own_stream}
        return resolve(
            {
                "stream": stream,
                "strategy": {"name": name, **quick_options(name), **own_strategy},
                **({"backbone": backbone} if backbone else {}),
                **sections,
            }
        )

    return make


@pytest.fixture
def run(
    squares: Callable[..., Path], spec_of: Callable[..., RunSpec], tmp_path: Path
) -> Callable[..., Record]:
    """A function that runs a strategy on two tasks of two classes each."""

    def make(name: str = "simplecil", **sections: dict[str, Any]) -> Record:
        file = squares("old.npz", ["ash", "birch", "cedar", "elm"])
        return execute(spec_of(file, name, 2, **sections), out=tmp_path / "runs")

    return make


@pytest.fixture
def can_trace() -> None:
    """Skip where torch is older than what a learner's graph is made for."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        pytest.skip(f"torch {torch.__version__} traces otherwise")


@pytest.fixture(scope="session")
def square_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
def pictures(square_file: Path) -> NDArray[np.uint8]:
    """The images that no learner has seen."""
    with np.load(square_file) as arrays:
        return arrays["test_x"]


@pytest.fixture(scope="session")
def learn(
    square_file: Path,
    quick_options: Callable[[str], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Learner]:
    """A function that trains a strategy on two tasks of squares and opens what it has learnt."""
    known: dict[str, Path] = {}

    def learnt(name: str, backbone: str = "vit-micro", **settings: dict[str, object]) -> Learner:
        key = f"{name} {backbone} {settings}"
        if key not in known:
            plain = strategies.split(name)[0]
            strategy = quick_options(plain)
            scenario = {"scenario": "task"} if plain in TASK_WISE else {}
            stream = {"name": f"npz:{square_file}", "tasks": "2", "validation_rate": 0, **scenario}
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
