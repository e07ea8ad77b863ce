"""Share fixtures between the tests: what several folders need, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

    from clbench.backbones.backbone import Backbone
    from clbench.options import Value
    from clbench.records.progress import Progress
    from clbench.records.record import Record

# Before torch is imported: threads would mostly wait for each other on tensors so small (242 s, not 78 s).
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The same numbers on every machine; tests of kernels ask for those that are there.
os.environ.setdefault("CLBENCH_KERNELS", "portable")


# What makes two epochs on a few images enough, of any strategy and of single ones.
QUICK = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "memory_size": 20}
OWN: dict[str, dict[str, object]] = {
    "avalanche.er-aml": {"memory_size": 40},  # a batch of each class
    "avalanche.mer": {"num_rounds": 1},
    "lae": {"frozen_epochs": 1},
    "ranpac": {"projection": 64},
    "scr": {"replay_batch": 0, "temperature": 0.5},  # a loss that does not grow with the memory
}
# One way into avalanche, and one of each family, are enough for the quick tests; a new file is among them.
TWINS = {
    *("agem", "aper", "coda-prompt", "der", "dualprompt", "ease", "er-ace", "ewc", "fecam", "gdumb"),
    *("derpp", "generative", "inflora", "joint", "mas", "mir", "scr", "slca", "slda", "taer"),
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what came of kills, damage and whatever was handed over."""
    told = [
        str(line)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, line in getattr(report, "user_properties", ())
        if name == "torture" and report.when == "teardown"  # when all has been told
    ]
    if told:
        terminalreporter.section("torture")
        for line in sorted(told):
            terminalreporter.line(line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes a ``strategy_name`` for every strategy of the registry."""
    if "strategy_name" in metafunc.fixturenames:
        from clbench import strategies

        def is_slow(name: str) -> bool:
            return name in TWINS or (name.startswith("avalanche.") and name != "avalanche.naive")

        marked = [
            pytest.param(name, marks=[pytest.mark.slow] if is_slow(name) else [])
            for name in strategies.names()
        ]
        metafunc.parametrize("strategy_name", marked)


@pytest.fixture(scope="session")
def quick_options() -> Callable[[str], dict[str, object]]:
    """A function that gives the options with which a strategy learns something in a second or two."""
    from clbench import strategies
    from clbench.options import option_types

    def options_of(name: str) -> dict[str, object]:
        allowed = option_types(strategies.get(name))
        return {key: value for key, value in {**QUICK, **OWN.get(name, {})}.items() if key in allowed}

    return options_of


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing when a run ends: half of the time of a run as short as those of tests."""
    monkeypatch.setattr("clbench.runs.line.write_figures", lambda record: None)


@pytest.fixture
def timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time a variant once, not seven times: a quarter of the time of a run as short as those of tests."""
    monkeypatch.setattr("clbench.runs.speed.ROUNDS", 1)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data and weights; tests that ask for it carry ``@pytest.mark.data``."""
    named = os.environ.get("CLBENCH_TEST_DATA")
    if not named:
        pytest.skip("needs real data: set CLBENCH_TEST_DATA to a folder that holds cifar100.npz")
    folder = Path(named).absolute()
    if not (folder / "cifar100.npz").is_file():
        pytest.skip(f"needs real data: CLBENCH_TEST_DATA={named} holds no cifar100.npz")
    return folder


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the source tree that these tests lie in."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def unallocated() -> Callable[[str], Backbone]:
    """A function that opens a network of timm at full size, without values: to count what is attached."""
    import timm
    import torch

    from clbench.backbones.backbone import Preprocessing
    from clbench.backbones.creation import open_model

    def open_without_values(name: str) -> Backbone:
        # what timm would draw into nothing takes six times as long as all the rest
        with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
            patch.setattr("timm.layers.weight_init._trunc_normal_", lambda tensor, *_: tensor, raising=False)
            model = timm.create_model(name, num_classes=0)
        unit = (1.0, 1.0, 1.0)
        return open_model(name, model, Preprocessing(224, unit, unit, 1.0, "bilinear"), source="", digest="")

    return open_without_values


@pytest.fixture(autouse=True)
def same_global_numbers() -> None:
    """Seed what the networks of others draw their weights from: tests run in another order each time."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def interrupted() -> Callable[[int], Progress]:
    """A function that gives what stops a run at its nth step, as Ctrl-C does."""
    from clbench.records.progress import Progress

    class Interrupted(Progress):
        def __init__(self, steps: int) -> None:
            self.steps = steps

        def step_done(self, num_images: int, loss: torch.Tensor) -> None:
            self.steps -= 1
            if self.steps == 0:
                raise KeyboardInterrupt

    return Interrupted


@pytest.fixture
def make_run() -> Callable[..., Record]:
    """A function that makes a record in which each known accuracy is the same and costs are round numbers."""
    from clbench.records.record import Record
    from clbench.records.spec import Part, RunOptions, RunSpec

    def make(
        out: Path,
        strategy: str = "lae",
        seed: int = 0,
        accuracy: float | None = 0.5,
        *,
        forgetting: float = 0.0,
        cost: float = 1.2e12,
        num_tasks: int = 2,
        num_test: int = 10,
        stream: str = "split-digits",
        version: str = "0.1.0",
        is_finished: bool = True,
        hashes: dict[str, str] | None = None,
        budget: str = "",
        **options: Value,
    ) -> Record:
        spec = RunSpec(
            stream=Part(name=stream),
            strategy=Part(name=strategy, options=options),
            backbone=Part(name="vit-micro"),
            petl=Part(name="adapter"),
            run=RunOptions(seed=seed, budget=budget),
        )
        record = Record.create(out, spec)
        tasks = range(num_tasks)
        rows = [[accuracy if on <= after else None for on in tasks] for after in tasks]
        classes = [[2 * task, 2 * task + 1] for task in tasks]
        matrix = {"accuracy": rows, "masked": rows, "classes_of_task": classes}
        record.write_json("matrix.json", {**matrix, "num_test": [num_test] * num_tasks})
        same = {"stream": "s", "weights": "w", "strategy_source": "x"}
        record.write_json("hashes.json", {**same, **(hashes or {})})
        record.write_json("environment.json", {"packages": {"clbench": version}})
        record.write_text("command.txt", f"clbench run --strategy {strategy} --seed {seed}\n")
        record.write_json("costs.json", _round_costs(seed, cost))
        if is_finished:
            metrics = {"accuracy": accuracy, "forgetting": forgetting, "ece": None}
            record.write_json("metrics.json", metrics)
        return record

    return make


@pytest.fixture
def write_run(tmp_path: Path, make_run: Callable[..., Record]) -> Callable[..., Record]:
    """A function that writes a finished run into a folder, as if it had been run.

    On each of three tasks, after each, it predicts the share ``accuracy`` of 20 images right.
    """
    import numpy as np

    from clbench.evaluate import compute

    def write(
        strategy: str, seed: int = 0, accuracy: float = 0.5, stream: str = "split-digits", **options: Value
    ) -> Record:
        record = make_run(
            tmp_path / "runs",
            strategy,
            seed,
            accuracy,
            cost=1e12 * (1 + accuracy),
            num_tasks=3,
            num_test=20,
            stream=stream,
            hashes={"stream": stream, "weights": "w" * 64, "strategy_source": "x" * 64},
            **options,
        )
        for after in range(3):
            task, row = np.divmod(np.arange(20 * (after + 1)), 20)
            label = 2 * task + row % 2
            prediction = np.where(row < round(20 * accuracy), label, (label + 1) % (2 * (after + 1)))
            confidence = np.full(len(row), 0.75, dtype=np.float32)
            log = {"after_task": np.full(len(row), after), "task": task, "row": row, "label": label}
            log |= {"prediction": prediction, "masked_prediction": prediction}
            record.write_predictions(after, {**log, "confidence": confidence, "label_score": confidence})
        results = record.results()
        measured = {"accuracy": results.accuracy, "masked": results.masked}
        record.write_json("matrix.json", {**record.read_json("matrix.json"), **measured})
        record.write_json("environment.json", {"python": "3.10.1", "packages": {"torch": "2.4.0"}})
        record.write_json("metrics.json", compute(results))
        return record

    return write


def _round_costs(seed: int, training: float) -> dict[str, Any]:
    """The costs of a run in which training took so many operations."""
    return {
        "parameters": {"total": 1_012_345, "trainable": 12_345},
        "stored_bytes": {"heads": 1_000, "petl": 164_000, "total": 165_000},
        "packed_bytes": {"heads": 1_000, "petl": 5_250, "total": 6_250},
        "flops": {
            "train": training,
            "train_per_image": 3.5e7,
            "evaluate": 3e10,
            "evaluate_per_image": 1.2e7,
        },
        "memory": {"process": {"peak": 345_000_000}, "accelerator": {"peak": None}},
        "time": {
            "train": {"seconds": 50.0 + 10 * seed, "cpu_seconds": 99.0, "images": 615},
            "evaluate": {"seconds": 2.0, "cpu_seconds": 4.0, "images": 246},
        },
        "energy": None,
    }


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A file of ToCom's plug-in for ``vit-micro`` that changes much: its second matrices are drawn, too."""
    import torch

    from clbench import backbones
    from clbench.backbones import BackboneOptions
    from clbench.compress.parts.compensation import new_plugin, to_plugin

    generator = torch.Generator().manual_seed(0)
    backbone = backbones.create("vit-micro", BackboneOptions(weights="none"))
    branches = [branch for _, branch in new_plugin(backbone, 2, generator)]
    for branch in branches:
        for tensor in (branch.query_up, branch.value_up):
            tensor.data.normal_(0, 0.3, generator=generator)
    file = tmp_path / "tocom.safetensors"
    file.write_bytes(to_plugin(branches, {"backbone": "vit-micro"}))
    return file
