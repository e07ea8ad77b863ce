"""Show that a run measures what it is asked to: tasks ahead, representations, and every operation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clbench
from clbench.records.record import Record

pytestmark = pytest.mark.usefixtures("no_figures")


def run(folder: Path, stream: dict[str, Any], strategy: dict[str, Any], **options: Any) -> Record:
    """A run on a few digits, with a network of random weights."""
    few = {"name": "split-digits", "train_per_class": 6, "test_per_class": 4, "augment": "none"}
    spec = clbench.resolve(
        {
            "stream": {**few, **stream},
            "backbone": {"name": "vit-micro", "weights": "none"},
            "strategy": {"epochs": 1, "batch_size": 10, **strategy},
            "run": options,
        }
    )
    return clbench.execute(spec, out=folder, places=clbench.Places(None, folder))


def test_tasks_ahead_are_measured_where_all_share_their_classes(tmp_path: Path) -> None:
    rotated = {"scenario": "domain", "domains": "rotations", "tasks": "3"}
    plain = run(tmp_path / "plain", rotated, {"name": "naive-linear"})
    ahead = run(tmp_path / "ahead", rotated, {"name": "naive-linear"}, eval_ahead=True)
    first, second = plain.results(), ahead.results()
    lower = np.tri(3, dtype=bool)
    np.testing.assert_array_equal(second.accuracy[lower], first.accuracy[lower])
    assert np.isnan(first.accuracy[~lower]).all()
    assert not np.isnan(second.accuracy).any()
    assert second.untrained is not None
    metrics, without = ahead.read_json("metrics.json"), plain.read_json("metrics.json")
    expected = np.mean(second.accuracy.diagonal(1) - second.untrained[1:])
    assert metrics["fwt"] == pytest.approx(expected)
    assert without["fwt"] is None
    for name in ("accuracy", "forgetting", "bwt", "amca", "forgetting-classes", "ece", "nll"):
        assert metrics[name] == without[name], name


def test_tasks_ahead_with_unknown_classes_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(clbench.UserError, match=r"task 2 of split-digits brings classes .* meaningless"):
        run(tmp_path, {"tasks": "5"}, {"name": "naive-linear"}, eval_ahead=True)


def test_representations_are_those_of_the_same_images_after_each_task(tmp_path: Path) -> None:
    frozen = run(tmp_path, {"tasks": "2"}, {"name": "simplecil-linear"}, probe_images=5)
    probe = frozen.results().representations
    assert probe is not None
    assert [features.shape for features in probe.after] == [(2 * 2 * 5, 128)] * 2
    assert probe.is_test.sum() == 10
    np.testing.assert_array_equal(*probe.after)  # a frozen network: nothing moves
    metrics = frozen.read_json("metrics.json")
    assert metrics["cka"] == pytest.approx(1.0)
    assert metrics["representation-drift"] == 0.0
    assert 0.0 <= metrics["accuracy-probed"] <= 1.0


def test_what_is_trained_moves_the_representations(tmp_path: Path) -> None:
    tuned = run(tmp_path, {"tasks": "2"}, {"name": "naive-adapter", "learning_rate": 0.05}, probe_images=5)
    metrics = tuned.read_json("metrics.json")
    assert metrics["cka"] < 1.0
    assert metrics["representation-drift"] > 0.0


@pytest.mark.slow
def test_looking_at_representations_changes_no_prediction(tmp_path: Path) -> None:
    one, other = (
        run(
            tmp_path / str(count),
            {"tasks": "2"},
            {"name": "er-adapter", "memory_size": 4},
            probe_images=count,
        )
        for count in (0, 5)
    )
    np.testing.assert_array_equal(one.predictions()["label_score"], other.predictions()["label_score"])


@pytest.mark.parametrize("exact", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_images_of_the_memory_that_a_prediction_needs_are_counted(tmp_path: Path, exact: bool) -> None:
    record = run(tmp_path, {"tasks": "2"}, {"name": "icarl-adapter", "memory_size": 10}, exact=exact)
    flops = record.read_json("costs.json")["flops"]
    num_predicted, per_image = 20 + 40, flops["evaluate_per_image"]
    # after each task the means of the ten exemplars are taken anew
    assert flops["evaluate"] == pytest.approx((num_predicted + 2 * 10) * per_image, rel=0.02)


def test_prototypes_are_counted_with_and_without_a_cache(tmp_path: Path) -> None:
    cached, exact = (
        run(tmp_path / str(exact), {"tasks": "2"}, {"name": "simplecil-linear"}, exact=exact).read_json(
            "costs.json"
        )
        for exact in (False, True)
    )
    per_image = exact["flops"]["evaluate_per_image"]
    num_train = cached["time"]["encode"]["images"] - 40  # each image once: training and test
    assert exact["flops"]["task"] == pytest.approx(num_train * per_image, rel=0.01)
    assert cached["flops"]["encode"] == pytest.approx(num_train * per_image, rel=0.01)
    assert cached["flops"]["task"] < 0.01 * exact["flops"]["task"]
    assert exact["flops"]["evaluate"] == pytest.approx((20 + 40) * per_image, rel=0.01)
    assert cached["flops"]["evaluate"] == pytest.approx(40 * per_image, rel=0.02)
    assert exact["flops"]["total"] == exact["flops"]["task"] + exact["flops"]["evaluate"]


def test_costs_by_task_end_where_the_whole_ends(tmp_path: Path) -> None:
    costs = run(tmp_path, {"tasks": "5"}, {"name": "er-linear", "memory_size": 20}).read_json("costs.json")
    tasks = costs["by_task"]
    frame = clbench.load_runs(tmp_path).costs_by_task.set_index(["cost", "after"])["value"]
    assert frame["flops.train"].tolist() == [task["flops"]["train"] for task in tasks]
    assert len(tasks) == 5
    assert tasks[-1]["parameters"] == costs["parameters"]
    assert tasks[-1]["stored_bytes_by_kind"] == costs["stored_bytes_by_kind"]
    heads = [task["stored_bytes_by_kind"]["head"] for task in tasks]
    assert heads == [heads[0] * (index + 1) for index in range(5)]  # two classes a task
    trained = [task["flops"]["train"] for task in tasks]
    assert trained == sorted(trained)
    assert trained[-1] == costs["flops"]["train"]
    assert costs["macs"]["train"] == costs["flops"]["train"] / 2


@pytest.mark.slow
def test_in_real_time_all_batches_are_predicted_and_some_are_missed(tmp_path: Path) -> None:
    online = {"tasks": "2", "online": 5}
    learnt, tried = [], []
    for cost in (1, 3):
        record = run(
            tmp_path / str(cost),
            online,
            {"name": "naive-linear", "batch_size": 5},
            eval_every=1,
            step_cost=cost,
        )
        learnt.append(record.read_json("costs.json")["time"]["train"]["images"])
        looks = record.results().anytime
        assert looks is not None
        tried.append(looks.tried.sum())
    num_batches = learnt[0] // 5 // 2  # of each of two tasks
    assert learnt == [2 * 5 * num_batches, 2 * 5 * -(-num_batches // 3)]
    assert tried == [learnt[0]] * 2
    with pytest.raises(clbench.UserError, match=r"run\.step_cost above 1: the images of split-digits wait"):
        run(tmp_path, {"tasks": "2"}, {"name": "naive-linear"}, step_cost=2)


def test_what_a_run_takes_does_not_depend_on_what_lies_in_the_cache(tmp_path: Path) -> None:
    costs = [
        run(tmp_path, {"tasks": "2"}, {"name": "simplecil-linear"}, probe_images=2).read_json("costs.json")
        for _ in range(2)
    ]
    assert costs[1]["time"].get("encode", {"images": 0})["images"] == 0  # all of it was read
    assert costs[1]["flops"].keys() == costs[0]["flops"].keys()
    for name, spent in costs[0]["flops"].items():
        assert costs[1]["flops"][name] == pytest.approx(spent), name
