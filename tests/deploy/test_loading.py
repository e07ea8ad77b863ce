"""A learner is loaded from what a run left, at any moment of it, or is refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import clbench
from clbench import Progress, Record, RunSpec, UserError
from clbench.runs.checkpoint import load_checkpoint

CLASSES = ["ash", "birch", "cedar", "elm"]
SOME = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def stop_at(
    squares: Callable[..., Path],
    spec_of: Callable[..., RunSpec],
    interrupted: Callable[[int], Progress],
    tmp_path: Path,
) -> Callable[..., Path]:
    """A function that stops a run of two tasks, six steps each, at a step, and returns its folder."""

    def stop(step: int, strategy: str = "naive", **sections: dict[str, object]) -> Path:
        spec = spec_of(squares("old.npz", CLASSES), strategy, 2, **sections)
        with pytest.raises(KeyboardInterrupt):
            clbench.execute(spec, out=tmp_path / "stopped", progress=interrupted(step))
        (folder,) = (tmp_path / "stopped").iterdir()
        return folder

    return stop


def test_a_run_stopped_between_tasks_is_what_it_had_learnt(stop_at: Callable[..., Path]) -> None:
    learner = clbench.load(stop_at(7))  # the first step of task 2
    assert (learner.num_tasks, learner.class_names) == (1, ["ash", "birch"])
    assert learner.predict(SOME).scores.shape == (5, 2)


def test_a_run_stopped_deep_inside_a_task_is_what_it_was_before_that(stop_at: Callable[..., Path]) -> None:
    folder = stop_at(11, run={"checkpoint_every": 1})  # five checkpoints of task 2
    newest = load_checkpoint(folder / "checkpoint")
    assert newest is not None
    assert newest.position.is_inside_task
    assert clbench.load(folder).num_tasks == 1
    resumed = clbench.resume(folder)
    assert clbench.load(resumed.path).num_tasks == 2
    assert len(list((folder / "checkpoint").glob("*.safetensors"))) == 2


def test_before_the_first_task_has_ended_there_is_nothing_to_load(stop_at: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="holds no checkpoint of a task that has ended"):
        clbench.load(stop_at(2))


def test_no_folder_and_no_run_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        clbench.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"it has no spec\.toml"):
        clbench.load(tmp_path)


@pytest.mark.parametrize("name", ["spec.toml", "hashes.json", "history.json"])
def test_what_was_changed_is_refused(name: str, run: Callable[..., Record]) -> None:
    file = run().path / name
    file.write_text(file.read_text() + "\n")
    with pytest.raises(UserError, match=f"its {name} has changed since it was written"):
        clbench.load(file.parent)


def test_other_weights_are_refused(run: Callable[..., Record], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    plain = clbench.load(run().path)
    bundle = plain.save(tmp_path / "light", without_backbone=True)
    tensors = load_file(plain.save(tmp_path / "whole") / "learner.safetensors")
    weights = {name.partition("/")[2]: each for name, each in tensors.items() if name.startswith("backbone/")}
    save_file(weights, tmp_path / "same.safetensors")
    weights["pos_embed"] = weights["pos_embed"] + 1
    save_file(weights, tmp_path / "other.safetensors")
    assert torch.equal(
        clbench.load(bundle, weights=tmp_path / "same.safetensors").predict(SOME).scores,
        plain.predict(SOME).scores,
    )
    with pytest.raises(UserError, match=r"was learnt on other weights of vit-micro .*--weights"):
        clbench.load(bundle, weights=tmp_path / "other.safetensors")


def test_a_record_without_a_history_is_read_with_its_data(run: Callable[..., Record], tmp_path: Path) -> None:
    record = run()
    expected = clbench.load(record.path).predict(SOME).scores
    older = shutil.copytree(record.path, tmp_path / "older")
    (older / "history.json").unlink()
    manifest = older / "manifest.sha256"
    lines = [line for line in manifest.read_text().splitlines(True) if "history.json" not in line]
    manifest.write_text("".join(lines))
    assert torch.equal(clbench.load(older).predict(SOME).scores, expected)
    (tmp_path / "old.npz").unlink()
    with pytest.raises(UserError, match=r"made by an earlier version.*its data are needed"):
        clbench.load(older)


def test_a_history_that_is_none_is_one_line(run: Callable[..., Record]) -> None:
    record = run()
    (record.path / "manifest.sha256").unlink()
    for text in ("[]", "{}", '{"tasks": [[0]]}', "{", "null"):
        (record.path / "history.json").write_text(text)
        with pytest.raises(UserError) as error:
            clbench.load(record.path)
        assert "history.json" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_learner_that_was_told_tasks_has_to_be_told_them(run: Callable[..., Record]) -> None:
    learner = clbench.load(run("naive", stream={"scenario": "task"}).path)
    with pytest.raises(UserError, match="has to be told the task of a picture: task=0 to 1"):
        learner.predict(SOME)
    with pytest.raises(UserError, match="task 2: it has learnt tasks 0 to 1"):
        learner.predict(SOME, task=2)
    said = learner.predict(SOME, task=1)
    assert set(said.names) <= {"cedar", "elm"}
    torch.testing.assert_close(said.probabilities[:, 2:].sum(dim=1), torch.ones(5))
    assert [len(names) for names in said.top(4)] == [4] * 5
    with pytest.raises(UserError, match="it takes no task"):
        clbench.load(run().path).predict(SOME, task=0)


@pytest.mark.slow
def test_a_flow_without_boundaries_is_loaded_too(run: Callable[..., Record]) -> None:
    record = run("naive", stream={"arrangement": "blurry", "tasks": "2"})
    learner = clbench.load(record.path)
    assert sorted(learner.class_names) == CLASSES


@pytest.mark.slow
def test_half_precision_is_what_it_was(run: Callable[..., Record], tmp_path: Path) -> None:
    record = run("naive", backbone={"dtype": "bf16"}, run={"precision": "bf16"})
    learner = clbench.load(record.path)
    bundle = learner.save(tmp_path / "bundle")
    assert torch.equal(clbench.load(bundle).predict(SOME).scores, learner.predict(SOME).scores)


def test_weights_that_are_given_are_checked(run: Callable[..., Record]) -> None:
    from clbench import backbones
    from clbench.backbones.given import Given

    with pytest.raises(UserError, match=r"lacks .* tensor"):
        backbones.create("vit-micro", given=Given({}, "", "a bundle"))


def test_a_record_of_before_the_move_is_asked_and_learns_on(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "before-the-move"  # stopped in its third task
    shutil.copytree(checkout / "tests/runs/older-records" / folder.name, folder)
    learner = clbench.load(folder)
    assert (learner.num_tasks, learner.class_names) == (2, ["0", "1", "2", "3"])
    few = {"stream": {"train_per_class": 4, "test_per_class": 3}}
    record = learner.learn("split-digits", settings=few, out=tmp_path / "runs")
    assert clbench.load(record.path).class_names == [str(number) for number in range(10)]
    assert None not in record.read_json("matrix.json")["accuracy"][2]
