"""Show that the metrics of looks are their formulas, and that a run's log of looks is what happened."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from clbench import petl, strategies, streams
from clbench.data.batches import Batcher
from clbench.evaluate import METRICS, Results, compute
from clbench.evaluate.looks import COLUMNS, PREQUENTIAL, Anytime
from clbench.evaluate.meter import Meter
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunOptions
from clbench.report import run_tables
from clbench.runs.checkpoint import load_checkpoint, load_ended, save_checkpoint, save_ended
from clbench.runs.evaluator import Columns
from clbench.runs.line import execute
from clbench.runs.loop import Loop
from clbench.runs.watch import Watch
from clbench.seeds import Seeds
from clbench.streams import Places, Task, TaskStream
from clbench.testing.generated import small_backbone

NAN = float("nan")
OF_LOOKS = [name for name, metric in METRICS.items() if metric.family in ("online", "stability")]
# Three tasks, of each a look inside and one after it: task 1 drops and recovers, task 2 drops and does not.
STEPS, IN_TASK, EXACT = [10, 20, 30, 40, 50, 70], [0, 0, 1, 1, 2, 2], [False, True] * 3
DIP = [
    [0.60, NAN, NAN],
    [0.80, NAN, NAN],
    [0.20, 0.50, NAN],
    [0.78, 0.90, NAN],
    [0.50, 0.30, 0.70],
    [0.60, 0.40, 1.00],
]


def looks_of(
    accuracy: Any,
    *,
    steps: Any = STEPS,
    in_task: Any = IN_TASK,
    exact: Any = EXACT,
    subset: Any = None,
    num: Any = None,
    num_test: Any = None,
) -> Anytime:
    accuracy = np.array(accuracy)
    return Anytime(
        steps=np.array(steps),
        images=10 * np.array(steps),
        in_task=np.array(in_task),
        exact=np.array(exact),
        accuracy=accuracy,
        subset=accuracy if subset is None else np.array(subset),
        num=np.where(np.isnan(accuracy), 0, 20) if num is None else np.array(num),
        num_test=np.array(num_test or [100] * accuracy.shape[1]),
        hits=np.zeros(len(steps), int),
        tried=np.zeros(len(steps), int),
    )


def results_of(looks: Anytime | None, class_accuracy: Any = None) -> Results:
    unknown = np.full((3, 3), NAN)
    return Results(
        unknown,
        unknown,
        np.array([100] * 3),
        class_accuracy=None if class_accuracy is None else np.array(class_accuracy),
        anytime=looks,
    )


def log_of(*rows: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    return dict(zip(COLUMNS, np.array(rows).T, strict=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("anytime-accuracy", (0.60 + 0.80 + 0.35 + 0.84 + 1.5 / 3 + 2 / 3) / 6),
        ("min-accuracy", (0.20 + 0.30) / 2),
        ("worst-case-accuracy", 1.00 / 3 + 2 / 3 * 0.25),
        ("stability-gap", ((0.80 - 0.20) + (0.90 - 0.30)) / 2),
        ("recovery-steps", 40 - 20),  # 0.78 is at least 0.95 * 0.80; task 2 never recovers
        ("recovered", 1 / 2),
        ("windowed-forgetting-10", (0.60 + 0.60 - 0.30) / 3),  # task 3 only gains
        ("windowed-plasticity-10", (0.58 + 0.40 + 0.30) / 3),
    ],
)
def test_worked_example_with_a_dip_comes_out(name: str, value: float):
    assert METRICS[name](results_of(looks_of(DIP))) == pytest.approx(value)


def test_area_under_the_curve_weighs_looks_by_training_images_and_tasks_by_test_images():
    looks = looks_of(DIP, num_test=[100, 100, 200])
    heights = [0.60, 0.80, 0.35, 0.84, (50 + 30 + 140) / 400, (60 + 40 + 200) / 400]
    expected = (100 * sum(heights[:5]) + 200 * heights[5]) / 700
    assert METRICS["anytime-auc"](results_of(looks)) == pytest.approx(expected)


def test_area_under_the_curve_counts_a_task_by_the_classes_met():
    # half of task 2's subset is of classes met at the first look: it stands for 50 of 100 test images
    looks = looks_of(
        [[0.8, NAN], [0.6, 0.4], [0.6, 0.4]],
        steps=[10, 20, 30],
        in_task=[0, 1, 1],
        exact=[True, False, True],
        num=[[20, 0], [20, 10], [20, 20]],
    )
    assert METRICS["anytime-auc"](results_of(looks)) == pytest.approx((0.8 + 80 / 150 + 100 / 200) / 3)


def test_a_constant_learner_loses_nothing_and_recovers_at_once():
    values = compute(results_of(looks_of(np.where(np.isnan(DIP), NAN, 0.3))))
    for name in ("windowed-forgetting-10", "windowed-plasticity-100", "stability-gap", "recovery-steps"):
        assert values[name] == 0.0, name
    assert values["recovered"] == 1.0
    for name in ("anytime-accuracy", "anytime-auc", "min-accuracy", "worst-case-accuracy"):
        assert values[name] == pytest.approx(0.3), name


def test_a_subset_that_is_harder_than_all_images_is_no_gap():
    subset = np.where(np.isnan(DIP), NAN, 0.3)
    accuracy = np.where(np.array(EXACT)[:, None], subset + 0.1, subset)
    values = compute(results_of(looks_of(accuracy, subset=subset)))
    assert values["stability-gap"] == values["windowed-forgetting-10"] == 0.0
    assert values["anytime-accuracy"] == pytest.approx((0.3 + 0.4) / 2)  # exact after tasks


def test_a_window_holds_as_many_looks_as_it_says():
    fall = 1 - 0.01 * np.arange(130)[:, None]
    exact = [False] * 129 + [True]
    looks = looks_of(fall, steps=np.arange(1, 131), in_task=[0] * 130, exact=exact)
    values = compute(results_of(looks))
    assert values["windowed-forgetting-10"] == pytest.approx(0.09)
    assert values["windowed-forgetting-100"] == pytest.approx(0.99)
    assert values["windowed-plasticity-10"] == pytest.approx(-0.01)


def test_one_task_has_no_old_ones():
    looks = looks_of([[0.4], [0.6]], steps=[10, 20], in_task=[0, 0], exact=[False, True])
    values = compute(results_of(looks))
    assert values["worst-case-accuracy"] == pytest.approx(0.6)
    assert all(np.isnan(values[name]) for name in ("min-accuracy", "stability-gap", "recovered"))


def test_a_segment_without_test_images_is_left_out():
    dip = np.insert(np.array(DIP), 1, NAN, axis=1)
    with_gap = np.insert(dip, 2, dip[1], axis=0)  # and looks inside and after it
    looks = looks_of(
        with_gap,
        steps=[10, 20, 25, 30, 40, 50, 70],
        in_task=[0, 0, 1, 2, 2, 3, 3],
        exact=[False, True, True, False, True, False, True],
        num_test=[100, 0, 100, 100],
    )
    assert METRICS["min-accuracy"](results_of(looks)) == pytest.approx(0.25)
    assert METRICS["windowed-forgetting-10"](results_of(looks)) == pytest.approx(0.30)


@pytest.mark.parametrize(
    "looks",
    [
        None,
        looks_of(DIP[1::2], steps=STEPS[1::2], in_task=[0, 1, 2], exact=[True] * 3),
        looks_of(DIP, exact=[False] * 5 + [True]),
    ],
    ids=["no log", "looks after tasks only", "no look after a task"],
)
def test_without_looks_inside_and_after_every_task_nothing_is_known(looks: Anytime | None):
    values = compute(results_of(looks))
    assert len(OF_LOOKS) == 12
    assert all(np.isnan(values[name]) for name in OF_LOOKS)


def test_forgetting_of_classes_takes_each_class_from_where_it_was_best():
    # class 0 falls from its best 0.9 to 0.5, class 1 rises from 0.4 to 0.6, class 2 is new in the last task
    rows = [[0.7, NAN, NAN], [0.9, 0.4, NAN], [0.5, 0.6, 0.8]]
    assert METRICS["forgetting-classes"](results_of(None, rows)) == pytest.approx((0.4 - 0.2) / 2)
    assert np.isnan(METRICS["forgetting-classes"](results_of(None, rows[:1])))
    assert np.isnan(METRICS["forgetting-classes"](results_of(None, [*rows[:2], [NAN] * 3])))


def test_rows_of_the_log_become_looks():
    looks = Anytime.from_log(
        log_of(
            (4, 32, 0, PREQUENTIAL, 8, 32, 0),
            (4, 32, 0, 0, 3, 10, 0),
            (6, 48, 0, 0, 9, 10, 0),  # the last look of the task, before the strategy finished it
            (6, 48, 0, PREQUENTIAL, 4, 16, 0),
            (6, 48, 0, 0, 4, 10, 0),  # the same images after it
            (6, 48, 0, 0, 30, 50, 1),  # all images
            (6, 48, 1, 0, 25, 50, 1),  # a task without steps
            (6, 48, 1, 1, 10, 40, 1),
        ),
        num_tasks=2,
    )
    assert looks.steps.tolist() == [4, 6, 6]
    assert looks.in_task.tolist() == [0, 0, 1]
    assert looks.exact.tolist() == [False, True, True]
    np.testing.assert_allclose(looks.accuracy, [[0.3, NAN], [0.6, NAN], [0.5, 0.25]])
    np.testing.assert_allclose(looks.subset, [[0.3, NAN], [0.4, NAN], [NAN, NAN]])
    assert looks.num_test.tolist() == [50, 40]
    assert METRICS["prequential-accuracy"](results_of(looks)) == pytest.approx(12 / 48)


def digits(**options: Any) -> TaskStream:
    """Two tasks of five digits each; eight training and six test images a class, in no order of classes."""
    shape = {"tasks": "2", "validation_rate": 0.0, "train_per_class": 8, "test_per_class": 6}
    protocol = streams.get("split-digits")(augment="none", **shape, **options)
    return protocol.build("split-digits", Places(None, Path()), Seeds(0))


class Watched(Progress):
    """A run of naive fine-tuning that is looked at every so many steps; it may be stopped as by Ctrl-C."""

    def __init__(
        self, stream: TaskStream, folder: Path, *, every: int = 3, stop_after: int = -1, rate: float = 0.003
    ) -> None:
        cpu, seeds, backbone = torch.device("cpu"), Seeds(0), small_backbone()
        strategy = strategies.get("naive")(batch_size=4 if stream.micro_batch else 8)
        strategy.epochs = 1 if stream.micro_batch else 2
        strategy.learning_rate = rate
        strategy.setup(backbone, petl.get("linear")(), seeds)
        self.steps_left = stop_after
        self.logs: list[Columns] = []  # of the evaluations after tasks
        images = stream.tasks[0].train.images
        self.loop = Loop(
            strategy,
            stream,
            Batcher(images, backbone.preprocessing, "none", cpu),
            seeds,
            Meter(cpu),
            RunOptions(checkpoint_every=1, eval_every=every, eval_images=10),
            progress=self,
            save=lambda checkpoint: save_checkpoint(folder, checkpoint),
            save_ended=lambda task, ended: save_ended(folder, task, ended),
            load_ended=lambda num_tasks: load_ended(folder, num_tasks),
            log=self.keep,
        )
        self.loop.run(load_checkpoint(folder))

    def keep(self, task: int, columns: Columns | None) -> list[float]:
        assert columns is not None
        self.logs.append(columns)
        return []

    def step_done(self, num_images: int, loss: torch.Tensor) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            raise KeyboardInterrupt


def share(log: Columns, rows: NDArray[np.int64]) -> float:
    chosen = np.isin(log["row"], rows)
    return float((log["prediction"][chosen] == log["label"][chosen]).mean())


def test_looks_are_on_the_fixed_subset_and_exact_after_tasks(tmp_path: Path):
    run = Watched(digits(), tmp_path)
    looks = Anytime.from_log(run.loop.watch.columns(), num_tasks=2)
    assert looks.steps.tolist() == [3, 6, 9, 10, 12, 15, 18, 20]  # two epochs of five steps a task
    assert looks.images.tolist() == [8 * step for step in looks.steps]
    assert looks.exact.tolist() == [False] * 3 + [True] + [False] * 3 + [True]
    assert looks.num.tolist() == [[10, 0]] * 4 + [[10, 10]] * 4
    assert looks.num_test.tolist() == [30, 30]
    assert looks.tried.tolist() == [24, 16, 0, 0, 16, 24, 0, 0]  # each image before its first epoch only
    for after, end in enumerate((3, 7)):
        for task in range(after + 1):
            whole, subset = run.loop.stream.tasks[task].test, run.loop.watch.subsets[task]
            assert looks.accuracy[end, task] == share(run.logs[after], whole.rows)
            assert looks.subset[end, task] == share(run.logs[after], subset.rows)


@pytest.mark.parametrize("options", [{}, {"arrangement": "gaussian", "online": 4}], ids=["tasks", "flow"])
def test_a_stopped_run_goes_on_with_the_same_log(tmp_path: Path, options: dict[str, Any]):
    whole = Watched(digits(**options), tmp_path / "whole").loop.watch.columns()
    for stop_after in (5, 8):  # in the first task, then in the second
        with pytest.raises(KeyboardInterrupt):
            Watched(digits(**options), tmp_path / "stopped", stop_after=stop_after)
    resumed = Watched(digits(**options), tmp_path / "stopped").loop.watch.columns()
    for name, column in whole.items():
        assert resumed[name].tolist() == column.tolist(), name


def test_in_a_flow_no_class_is_predicted_before_it_was_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stream = digits(arrangement="gaussian", online=4)
    labels = np.concatenate([task.train.labels for task in stream.tasks]).tolist()
    looks: list[tuple[set[int], set[int]]] = []  # classes shown, classes predicted
    look = Watch.look

    def look_and_keep(watch: Watch, seen: Sequence[Task]) -> None:
        log = watch.evaluator.log

        def keep(*arguments: Any, **named: Any) -> Columns:
            columns = log(*arguments, **named)
            met = set(labels[: watch.num_trained])
            looks.append((met, {*columns["prediction"].tolist(), *columns["label"].tolist()}))
            return columns

        monkeypatch.setattr(watch.evaluator, "log", keep)
        look(watch, seen)
        monkeypatch.setattr(watch.evaluator, "log", log)

    monkeypatch.setattr(Watch, "look", look_and_keep)
    untrained = Watched(stream, tmp_path, every=1, rate=1e-9)  # its scores favour no class that was met
    log = untrained.loop.watch.columns()
    assert len(looks) == 18  # after each step but a segment's last
    assert len(looks[0][0]) < len(set(labels))  # some were still to come
    assert all(shown <= met for met, shown in looks)
    tried = log["task"] == PREQUENTIAL
    assert log["num"][tried].tolist() == [4] * 20
    assert log["hits"][tried][0] == 0  # all are of classes that come for the first time


def table(record: Record) -> list[str]:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(run_tables(record))
    return console.export_text().split()


def test_a_record_keeps_the_log_and_draws_it(tmp_path: Path):
    spec = resolve(
        {
            "stream": {"name": "split-digits", "tasks": "2", "train_per_class": 5, "test_per_class": 3},
            "backbone": {"weights": "none"},
            "strategy": {"name": "naive-linear", "epochs": 1, "batch_size": 5},
            "run": {"eval_every": 3, "eval_images": 6},
        }
    )
    record = execute(spec, out=tmp_path, places=Places(None, tmp_path), progress=Progress(), command="")
    results = record.results()
    assert results.anytime is not None
    np.testing.assert_array_equal(results.anytime.accuracy[results.anytime.exact], results.accuracy)
    assert (record.path / "figures" / "anytime.png").is_file()
    known = record.read_json("metrics.json")
    assert known["prequential-accuracy"] is not None
    assert known["anytime-accuracy"] is not None
    assert {"anytime-accuracy", "prequential-accuracy", "stability-gap", "more"} <= set(table(record))
    record.write_json("metrics.json", {**known, **dict.fromkeys(OF_LOOKS)})  # as without looks
    assert not set(OF_LOOKS) & set(table(record))
