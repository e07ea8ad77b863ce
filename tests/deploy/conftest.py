"""Share between the tests of learners: small collections of coloured squares, and runs on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clbench import Record, RunSpec, execute, resolve

NUM_TRAIN, NUM_TEST = 14, 6  # images a class


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
        scenario = {"scenario": "task"} if name == "confit" else {}
        backbone = {"name": "slim-resnet18", "image_size": 32} if name == "confit" else {}
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
