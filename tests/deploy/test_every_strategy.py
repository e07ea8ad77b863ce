"""What any strategy has learnt can be loaded, asked, shipped and taught more, and is what it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import clbench
from clbench import Learner, Places, Record, RunSpec
from clbench.evaluate.digest import shares_of
from clbench.runs.earlier import build_stream
from clbench.seeds import Seeds

# Another process: loads each bundle in a folder and writes what it says of some pictures.
ASK = """
import json, sys
from pathlib import Path
import numpy as np
import clbench

folder = Path(sys.argv[1])
for bundle in sorted(path for path in folder.iterdir() if path.is_dir()):
    learner = clbench.load(bundle)
    task = 0 if learner.history.scenario == "task" else None
    said = learner.predict(np.load(folder / f"{bundle.name}.npy"), task=task)
    (folder / f"{bundle.name}.json").write_text(json.dumps(said.scores.tolist()))
"""


def last_evaluation(record: Record) -> dict[str, np.ndarray]:
    log = record.predictions()
    return {name: values[log["after_task"] == log["after_task"].max()] for name, values in log.items()}


def pictures_of(record: Record) -> np.ndarray:
    stream = build_stream(record.spec.stream, Places(), Seeds(0))
    return np.asarray(stream.tasks[0].train.images)


def check_equal_to_log(learner: Learner, record: Record) -> None:
    log, pictures = last_evaluation(record), pictures_of(record)
    is_told = learner.history.scenario == "task"
    for task in np.unique(log["task"]).tolist() if is_told else [None]:
        chosen = log["task"] == task if is_told else slice(None)
        said = learner.predict(pictures[log["row"][chosen]], task=task)
        np.testing.assert_array_equal(said.classes.numpy(), log["prediction"][chosen])
        if said.are_probabilities:
            shares = said.scores if is_told else shares_of(said.scores)
            confidence = shares.gather(1, said.classes[:, None])[:, 0]
            np.testing.assert_array_equal(confidence.numpy(), log["confidence"][chosen])


@pytest.mark.slow
def test_a_loaded_learner_says_what_the_run_logged_and_so_does_its_bundle(
    strategy_name: str, run: Callable[..., Record], tmp_path: Path
) -> None:
    check_loading(run(strategy_name), tmp_path)


@pytest.mark.parametrize("name", ["simplecil", "lae"])
def test_so_do_the_commonest(name: str, run: Callable[..., Record], tmp_path: Path) -> None:
    check_loading(run(name), tmp_path)


def check_loading(record: Record, tmp_path: Path) -> None:
    learner = clbench.load(record.path)
    check_equal_to_log(learner, record)
    bundled = clbench.load(learner.save(tmp_path / "bundle"))
    check_equal_to_log(bundled, record)
    kept = {
        name for name in bundled.checkpoint.tensors if bundled.checkpoint.tensors[name].dtype == torch.uint8
    }
    assert not [name for name in kept if bundled.checkpoint.tensors[name].any()]  # no picture came along


@pytest.mark.slow
def test_a_learner_that_learns_on_is_what_a_run_of_all_tasks_makes(
    strategy_name: str, check_learning_on: Callable[[str], None]
) -> None:
    check_learning_on(strategy_name)


@pytest.mark.parametrize("name", ["simplecil"])
def test_so_it_is_with_the_commonest(name: str, check_learning_on: Callable[[str], None]) -> None:
    check_learning_on(name)


@pytest.fixture
def check_learning_on(
    run: Callable[..., Record],
    squares: Callable[..., Path],
    spec_of: Callable[..., RunSpec],
    tmp_path: Path,
) -> Callable[[str], None]:
    """A function that compares two tasks and one learnt on with a run of all three."""

    def check(name: str) -> None:
        record = run(name)
        before = {path: path.read_bytes() for path in record.path.rglob("*") if path.is_file()}
        learner = clbench.load(record.path)
        new = squares("new.npz", ["fir", "gum"])
        settings = {"stream": {"validation_rate": 0}}
        if not learner.strategy.resumable:
            with pytest.raises(clbench.UserError, match="cannot learn on"):
                learner.learn(f"npz:{new}", settings=settings, out=tmp_path / "runs")
            return
        child = learner.learn(f"npz:{new}", settings=settings, out=tmp_path / "runs")
        assert {path: path.read_bytes() for path in record.path.rglob("*") if path.is_file()} == before
        assert child.spec.parent is not None
        assert (child.spec.parent.id, child.spec.parent.tasks) == (record.spec.id, 2)

        everything = squares("whole.npz", ["ash", "birch", "cedar", "elm", "fir", "gum"])
        whole = clbench.execute(spec_of(everything, name, 3), out=tmp_path / "runs")
        states = [clbench.load(each.path).checkpoint.tensors for each in (whole, child)]
        assert states[0].keys() == states[1].keys()
        differing = [key for key, tensor in states[0].items() if not torch.equal(tensor, states[1][key])]
        assert not [
            key for key in differing if not key.endswith("/rows")
        ]  # the arrays are laid out otherwise
        for each in ("accuracy", "masked"):
            rows = [record.read_json("matrix.json")[each] for record in (whole, child)]
            assert rows[0][2] == rows[1][2]

    return check


@pytest.mark.slow
def test_another_process_says_the_same(run: Callable[..., Record], tmp_path: Path) -> None:
    from clbench import strategies

    folder = tmp_path / "bundles"
    expected = {}
    for name in strategies.names():
        record = run(name)
        learner = clbench.load(record.path)
        learner.save(folder / name)
        pictures = pictures_of(record)[:10]
        np.save(folder / f"{name}.npy", pictures)
        task = 0 if learner.history.scenario == "task" else None
        expected[name] = learner.predict(pictures, task=task).scores.tolist()
    subprocess.run([sys.executable, "-c", ASK, str(folder)], check=True, timeout=280)
    assert {name: json.loads((folder / f"{name}.json").read_text()) for name in expected} == expected
