"""A learner learns on: old classes keep their places, and old images are wanted only where they must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import clbench
from clbench import Learner, Progress, Record, UserError

WHOLE = {"stream": {"validation_rate": 0}}  # as in the runs of these tests


@pytest.fixture
def learner(run: Callable[..., Record]) -> Learner:
    return clbench.load(run("simplecil").path)


def accuracies(record: Record) -> list[list[float | None]]:
    rows: list[list[float | None]] = record.read_json("matrix.json")["accuracy"]
    return rows


def test_known_names_keep_their_places_and_new_ones_come_behind(
    learner: Learner, squares: Callable[..., Path], tmp_path: Path
) -> None:
    new = squares("new.npz", ["gum", "cedar", "fir"])  # in an order of its own
    record = learner.learn(f"npz:{new}", settings=WHOLE, out=tmp_path / "runs")
    taught = clbench.load(record.path)
    assert taught.class_names == ["ash", "birch", "cedar", "elm", "gum", "fir"]
    assert taught.history.tasks[2] == [2, 4, 5]
    old, count = (
        learner.checkpoint.tensors["prototypes/counts"],
        taught.checkpoint.tensors["prototypes/counts"],
    )
    assert count.tolist() == [*old[:2].tolist(), 2 * int(old[2]), int(old[3]), int(old[2]), int(old[2])]


def test_the_new_record_names_its_parent_and_says_what_was_before(
    learner: Learner, squares: Callable[..., Path], tmp_path: Path
) -> None:
    record = learner.learn(f"npz:{squares('new.npz', ['fir'])}", settings=WHOLE, out=tmp_path / "runs")
    spec = record.spec
    assert spec.parent is not None
    assert (spec.parent.id, spec.parent.group) == (learner.spec.id, learner.spec.group)
    assert (spec.parent.learner, spec.parent.tasks) == (learner.state_digest(), 2)
    assert clbench.RunSpec.from_toml(spec.to_toml()) == spec
    events = [json.loads(line) for line in (record.path / "events.jsonl").read_text().splitlines()]
    told = [event["line"] for event in events if event["event"] == "noted"]
    assert told[0] == "learnt before: tasks 1 to 2 of npz, tested again"
    assert not record.changes()


def test_two_specs_that_differ_in_their_parents_differ_in_their_ids(
    learner: Learner, run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    new = f"npz:{squares('new.npz', ['fir'])}"
    other = clbench.load(run("simplecil", run={"seed": 1}).path)
    ids = {each.learn(new, out=tmp_path / "runs").spec.id for each in (learner, other)}
    assert len(ids | {learner.spec.id, other.spec.id}) == 4


def test_without_the_old_images_old_tasks_are_not_tested_and_that_is_said(
    learner: Learner, squares: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "old.npz").unlink()
    new = f"npz:{squares('new.npz', ['fir', 'gum'])}"
    record = learner.learn(new, settings=WHOLE, out=tmp_path / "runs")
    rows = accuracies(record)
    assert learner.path is not None
    assert [row[:2] for row in rows[:2]] == accuracies(Record.open(learner.path))
    assert rows[2][:2] == [None, None]
    assert rows[2][2] is not None
    assert record.read_json("metrics.json")["forgetting"] is None
    assert "not tested again: its images are not there" in (record.path / "events.jsonl").read_text()


def test_old_images_that_changed_are_not_tested(
    learner: Learner, squares: Callable[..., Path], tmp_path: Path
) -> None:
    squares("old.npz", ["ash", "birch", "cedar", "oak"])
    record = learner.learn(f"npz:{squares('new.npz', ['fir'])}", settings=WHOLE, out=tmp_path / "runs")
    assert accuracies(record)[2][:2] == [None, None]


def test_several_tasks_and_learners_of_learners(
    learner: Learner, squares: Callable[..., Path], tmp_path: Path
) -> None:
    new = squares("new.npz", ["fir", "gum"])
    settings = {"stream": {"validation_rate": 0, "tasks": 2}}
    child = clbench.load(learner.learn(f"npz:{new}", settings=settings, out=tmp_path / "runs").path)
    assert child.history.tasks == [[0, 1], [2, 3], [4], [5]]
    last = squares("last.npz", ["holly", "ivy"])
    record = child.learn(f"npz:{last}", settings=WHOLE, out=tmp_path / "runs")
    grandchild = clbench.load(record.path)
    assert grandchild.class_names[4:] == ["fir", "gum", "holly", "ivy"]
    assert [chapter.num_tasks for chapter in grandchild.history.chapters] == [2, 2, 1]
    assert all(value is not None for value in accuracies(record)[4])
    # in closed form the order in which classes came does not matter
    everything = squares("whole.npz", ["ash", "birch", "cedar", "elm", "fir", "gum", "holly", "ivy"])
    whole = clbench.execute(
        clbench.resolve(
            {
                "stream": {"name": f"npz:{everything}", "tasks": "1", "validation_rate": 0},
                "strategy": {"name": "simplecil"},
            }
        ),
        out=tmp_path / "runs",
    )
    some = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    assert torch.equal(clbench.load(whole.path).predict(some).scores, grandchild.predict(some).scores)


def test_a_kill_while_learning_on_changes_nothing(
    run: Callable[..., Record],
    squares: Callable[..., Path],
    interrupted: Callable[[int], Progress],
    tmp_path: Path,
) -> None:
    learner = clbench.load(run("er").path)
    new = f"npz:{squares('new.npz', ['fir', 'gum'])}"
    settings = {**WHOLE, "run": {"checkpoint_every": 1}}
    whole = learner.learn(new, settings=settings, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        learner.learn(new, settings=settings, out=tmp_path / "killed", progress=interrupted(3))
    (folder,) = (tmp_path / "killed").iterdir()
    assert clbench.load(folder).num_tasks == 2  # what it had learnt when it began
    resumed = clbench.resume(folder)
    assert accuracies(resumed) == accuracies(whole)
    states = [clbench.load(each.path).checkpoint.tensors for each in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_who_trains_on_old_images_is_refused_without_them(
    run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    learner = clbench.load(run("joint").path)
    new = f"npz:{squares('new.npz', ['fir'])}"
    assert len(accuracies(learner.learn(new, settings=WHOLE, out=tmp_path / "runs"))) == 3
    (tmp_path / "old.npz").unlink()
    with pytest.raises(
        UserError, match="joint trains on the images of all tasks, and those of npz are not there"
    ):
        learner.learn(new, settings=WHOLE, out=tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gdumb", "icarl"])
def test_a_memory_has_the_old_images_that_it_needs(
    name: str, run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    learner = clbench.load(run(name).path)
    new = f"npz:{squares('new.npz', ['fir', 'gum'])}"
    with_data = clbench.load(learner.learn(new, settings=WHOLE, out=tmp_path / "runs").path)
    (tmp_path / "old.npz").unlink()
    without = clbench.load(learner.learn(new, settings=WHOLE, out=tmp_path / "runs").path)
    one, other = with_data.checkpoint.tensors, without.checkpoint.tensors
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_pictures_of_any_size_are_brought_to_the_size_that_was_learnt(
    learner: Learner, tmp_path: Path
) -> None:
    random = np.random.default_rng(3)
    for name in ("fir", "gum"):
        (tmp_path / "new" / name).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "new" / name / f"{number}.png")
    record = learner.learn(f"folder:{tmp_path / 'new'}", out=tmp_path / "runs")
    taught = clbench.load(record.path)
    assert (taught.history.height, taught.history.width) == (8, 8)
    assert record.spec.stream.options["stored_size"] == 8
    assert taught.predict(tmp_path / "new/gum/3.png").names == ["gum"]


def test_from_a_bundle_accounts_begin_anew(
    learner: Learner, squares: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = clbench.load(learner.save(tmp_path / "bundle"))
    record = bundle.learn(f"npz:{squares('new.npz', ['fir'])}", settings=WHOLE, out=tmp_path / "runs")
    rows = accuracies(record)
    assert rows[0] == [None] * 3
    assert None not in rows[2]
    assert [each["task"] for each in record.read_json("costs.json")["by_task"]] == [2]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"petl": {"rank": 3}}, r"petl\.rank is the learner's own"),
        ({"backbone": {"dtype": "bf16"}}, r"backbone\.dtype is the learner's own"),
        ({"run": {"seed": 3}}, r"run\.seed is the learner's own"),
        ({"run": {"probe_images": 3}}, r"run\.probe_images: a probe set is of all tasks of a run"),
        ({"strategy": {"epoch": 3}}, "no option 'epoch'; did you mean 'epochs'"),
        ({"stream": {"task": 3}}, "no option 'task'; did you mean 'tasks'"),
    ],
)
def test_what_cannot_be_changed_is_one_line(
    settings: dict[str, dict[str, Any]],
    line: str,
    learn: Callable[[str], Learner],
    square_file: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=line):
        learn("simplecil").learn(f"npz:{square_file}", settings=settings, out=tmp_path / "runs")


def test_domains_come_one_by_one(
    run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    learner = clbench.load(
        run("simplecil", stream={"scenario": "domain", "domains": "rotations", "tasks": "2"}).path
    )
    again = squares("again.npz", ["elm", "ash", "cedar", "birch"])
    record = learner.learn(f"npz:{again}", settings=WHOLE, out=tmp_path / "runs")
    taught = clbench.load(record.path)
    assert taught.class_names == learner.class_names
    assert taught.history.tasks[2] == [0, 1, 2, 3]


def test_a_strategy_that_needs_new_classes_is_refused_old_ones(
    run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    learner = clbench.load(run("lae").path)
    with pytest.raises(UserError, match="lae needs new classes in every task"):
        learner.learn(f"npz:{squares('again.npz', ['ash', 'elm'])}", out=tmp_path / "runs")


@pytest.mark.slow
def test_a_report_groups_them_over_seeds_of_their_parents(
    run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    from clbench.report.groups import group_runs

    new = f"npz:{squares('new.npz', ['fir'])}"
    parents = [run("simplecil", run={"seed": seed}) for seed in (0, 1)]
    children = [clbench.load(each.path).learn(new, out=tmp_path / "runs") for each in parents]
    groups = group_runs([*parents, *children])
    assert sorted(group.seeds for group in groups) == [[0, 1], [0, 1]]
    assert any("after=2-tasks-of-" in group.label for group in groups)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_bundle_brings_the_weights_to_learn_on_with(
    dtype: str,
    run: Callable[..., Record],
    squares: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clbench.backbones import creation, registry

    learner = clbench.load(run("naive", backbone={"dtype": dtype}).path)
    new = f"npz:{squares('new.npz', ['fir'])}"
    expected = learner.learn(new, settings=WHOLE, out=tmp_path / "runs")
    bundle = clbench.load(learner.save(tmp_path / "bundle"))

    def unreachable(self: object) -> None:
        raise UserError("the hub is out of reach")

    monkeypatch.setattr(registry.get("vit-micro"), "published", unreachable)
    assert creation.create_backbone
    record = bundle.learn(new, settings=WHOLE, out=tmp_path / "elsewhere")
    assert record.spec.backbone.options["weights"].endswith("learner.safetensors")
    states = [clbench.load(tmp_path / "elsewhere" / record.path.name).checkpoint.tensors]
    monkeypatch.undo()
    states.append(clbench.load(expected.path).checkpoint.tensors)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_looks_go_on_and_probes_do_not(
    run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    watched = {"probe_images": 3, "eval_every": 3, "eval_images": 4}
    parent = run("naive", run=watched)
    learner = clbench.load(parent.path)
    assert parent.representations() is not None
    new = f"npz:{squares('new.npz', ['fir', 'gum'])}"
    record = learner.learn(new, settings=WHOLE, out=tmp_path / "runs")
    before, after = parent.anytime(), record.anytime()
    assert before is not None
    assert after is not None
    assert all(np.array_equal(after[name][: len(before[name])], before[name]) for name in before)
    assert len(after["step"]) > len(before["step"])
    assert record.representations() is None
    (tmp_path / "old.npz").unlink()
    assert learner.learn(new, settings=WHOLE, out=tmp_path / "runs").is_finished


@pytest.mark.slow
def test_who_met_images_once_meets_the_next_ones_once(
    run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    single = {"epochs": 1, "batch_size": 7, "drop_last": False}
    parent = run("er", stream={"online": 7}, strategy=single, run={"prequential": True, "eval_every": 2})
    learner = clbench.load(parent.path)
    record = learner.learn(f"npz:{squares('new.npz', ['fir', 'gum'])}", settings=WHOLE, out=tmp_path / "runs")
    assert record.spec.stream.options["online"] == 7
    assert clbench.load(record.path).history.micro_batch == 7
