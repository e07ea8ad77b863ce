"""The straight line from a spec to a record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.runs.checkpoint import load_checkpoint
from clbench.runs.line import ChangedError, execute, resume
from clbench.runs.soundness import DivergedError
from clbench.streams import Places

SMALL = {
    "stream": {"name": "split-digits", "tasks": "2", "train_per_class": 8, "test_per_class": 5},
    "backbone": {"weights": "none"},
}


def small(strategy: str, run: dict[str, Any] | None = None, **options: Any) -> RunSpec:
    quick = {"epochs": 1, "batch_size": 8}
    return resolve({**SMALL, "strategy": {"name": strategy, **quick, **options}, "run": run or {}})


def finished(spec: RunSpec, folder: Path, progress: Progress | None = None) -> Record:
    places = Places(None, folder / "cache")
    return execute(spec, out=folder / "runs", places=places, progress=progress or Progress(), command="test")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Record]:
    """A function that runs a strategy when it is first asked for; the records are only read."""
    return cache(lambda strategy: finished(small(strategy), tmp_path_factory.mktemp("once")))


def test_a_record_holds_everything_that_was_promised(once: Callable[[str], Record]):
    record = once("lae-adapter")
    names = {str(path.relative_to(record.path)) for path in record.path.rglob("*")}
    assert {
        "spec.toml",
        "command.txt",
        "environment.json",
        "hashes.json",
        "matrix.json",
        "metrics.json",
        "costs.json",
        "events.jsonl",
        "predictions/after-task-00.parquet",
        "predictions/after-task-01.parquet",
        "figures/accuracy-matrix.png",
        "figures/accuracy-curve.png",
    } <= names
    assert Record.open(record.path).spec == record.spec
    costs = record.read_json("costs.json")
    assert (
        costs["parameters"]["added"] > costs["parameters"]["trainable"] > 0
    )  # the offline copy does not learn
    assert set(costs["stored_bytes"]) == {"petl online", "petl offline", "head", "total"}
    assert costs["packed_bytes"] == costs["stored_bytes"]  # nothing is quantised
    assert costs["time"]["train"]["images"] == 2 * 32  # two tasks, four batches of eight


def test_two_forward_passes_are_counted_once_the_offline_module_votes(once: Callable[[str], Record]):
    naive = once("naive-adapter").read_json("costs.json")["flops"]
    lae = once("lae-adapter").read_json("costs.json")["flops"]
    assert lae["evaluate_per_image"] == pytest.approx(2 * naive["evaluate_per_image"], rel=1e-6)


def test_the_accuracies_are_those_of_the_predictions(once: Callable[[str], Record]):
    record = once("naive-linear")
    log = record.predictions()
    matrix = json.loads((record.path / "matrix.json").read_text())
    for after, task in ((0, 0), (1, 0), (1, 1)):
        chosen = (log["after_task"] == after) & (log["task"] == task)
        assert chosen.sum() == 25  # five classes, five test images each
        hits = np.mean(log["prediction"][chosen] == log["label"][chosen])
        assert matrix["accuracy"][after][task] == pytest.approx(hits)
    assert matrix["accuracy"][0][1] is None


def test_joint_knows_nothing_before_the_last_task(tmp_path: Path):
    matrix = finished(small("joint-linear"), tmp_path).read_json("matrix.json")["accuracy"]
    assert matrix[0] == [None, None]
    assert None not in matrix[1]


def test_joint_after_every_task_fills_the_matrix(tmp_path: Path):
    matrix = finished(small("joint-linear", when="every"), tmp_path).read_json("matrix.json")["accuracy"]
    assert matrix[0][0] is not None
    assert None not in matrix[1]


def test_old_heads_stay_bit_for_bit_what_they_were(tmp_path: Path):
    heads = []

    class Watching(Progress):
        def task_finished(self, task: int, accuracies: list[float]) -> None:
            (folder,) = (tmp_path / "runs").iterdir()
            checkpoint = load_checkpoint(folder / "checkpoint")
            assert checkpoint is not None
            heads.append(checkpoint.tensors["head/tasks.0.weight"])

    finished(small("lae-adapter"), tmp_path, Watching())
    assert torch.equal(heads[0], heads[1])


def test_a_quantised_head_and_module_are_stored_in_their_bits(tmp_path: Path):
    record = finished(small("lae-bi-adapter", head_bits=1), tmp_path)
    costs = record.read_json("costs.json")
    width, classes, tasks = 128, 10, 2
    module = 8 * (32 * width // 8 + 8)  # four blocks, two matrices each
    head = classes * width // 8 + tasks * 8
    assert costs["packed_bytes"] == {
        "petl online": module,
        "petl offline": module,
        "head": head,
        "total": 2 * module + head,
    }
    assert costs["stored_bytes"]["head"] == 4 * classes * width  # it learns in float32, without bias


def test_bf16_runs_on_the_cpu(tmp_path: Path):
    record = finished(small("lae-prefix", run={"precision": "bf16"}), tmp_path)
    assert 0 <= record.read_json("metrics.json")["accuracy"] <= 1


def test_another_seed_gives_other_numbers_and_the_same_seed_the_same(
    tmp_path: Path, once: Callable[[str], Record]
):
    first = once("naive-adapter").predictions()["confidence"]
    again, other = (
        finished(small("naive-adapter", run={"seed": seed}), tmp_path).predictions()["confidence"]
        for seed in (0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_loss_that_explodes_is_told_in_one_line(tmp_path: Path):
    with pytest.raises(DivergedError, match=r"lower strategy\.learning_rate"):
        finished(small("naive-adapter", optimizer="sgd", learning_rate=1e30, epochs=3), tmp_path)


def test_resuming_with_other_data_is_refused(tmp_path: Path, once: Callable[[str], Record]):
    record = Record.open(shutil.copytree(once("naive-linear").path, tmp_path / "copy"))
    (record.path / "metrics.json").unlink()
    hashes = record.read_json("hashes.json")
    record.write_json("hashes.json", {**hashes, "stream": "0" * 64})
    with pytest.raises(ChangedError, match="its stream has changed"):
        resume(record.path, places=Places(None, tmp_path / "cache"), progress=Progress())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "image_size", "num_blocks"),
    [("convnext_atto", 32, 0), ("swin_tiny_patch4_window7_224", 64, 0), ("slim-resnet18", 32, 2)],
)
def test_lae_adapter_runs_on_other_families(tmp_path: Path, backbone: str, image_size: int, num_blocks: int):
    spec = resolve(
        {
            "stream": {**SMALL["stream"], "train_per_class": 3, "test_per_class": 1},
            "backbone": {"name": backbone, "weights": "none", "image_size": image_size},
            "strategy": {"name": "lae-adapter", "epochs": 1, "batch_size": 8},
            "petl": {"num_blocks": num_blocks},
        }
    )
    assert finished(spec, tmp_path).is_finished
