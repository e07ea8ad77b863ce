"""A strategy that a stream or a backbone cannot serve is refused in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clbench import strategies
from clbench.cli.app import main
from clbench.loggers.together import Together
from clbench.records.progress import Progress
from clbench.records.resolving import resolve
from clbench.runs.line import execute
from clbench.runs.needs import NEEDS, NeedError, refuse_impossible
from clbench.streams import Places
from clbench.testing.generated import generated_stream, small_backbone


@pytest.mark.parametrize("name", strategies.names())
def test_every_need_that_is_declared_is_known(name: str):
    assert set(strategies.get(name).needs) <= set(NEEDS)


def test_what_is_needed_and_there_is_accepted():
    strategy = strategies.get("lae")()
    assert strategy.needs  # else there would be nothing to refuse
    refuse_impossible("lae", strategy, generated_stream(), small_backbone())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"has_boundaries": False}, "to be told where a task ends"),
        ({"tasks": [replace(task, new_classes=[]) for task in generated_stream().tasks]}, "new classes"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, object], told: str):
    stream = replace(generated_stream(), **change)
    with pytest.raises(NeedError, match=told):
        refuse_impossible("lae", strategies.get("lae")(), stream, small_backbone())


def test_the_command_line_tells_it_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["run", "--strategy", "lae", "--set", "stream.arrangement=gaussian"]
    assert main(words) != 0
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("error: strategy lae needs to be told where a task ends")
    assert not (tmp_path / "runs").exists()


def test_a_run_tells_what_should_be_known_of_it_and_keeps_it(tmp_path):
    told: list[str] = []

    class Hearing(Progress):
        def noted(self, line: str) -> None:
            told.append(line)

    spec = resolve(
        {
            "stream": {"tasks": "2", "train_per_class": 4, "test_per_class": 2},
            "strategy": {"name": "lae", "epochs": 1, "frozen_epochs": 1},
            "backbone": {"weights": "none"},
        }
    )
    places = Places(None, tmp_path)
    record = execute(spec, out=tmp_path / "runs", places=places, progress=Together([Hearing(), Progress()]))
    cautions = strategies.get("lae")(epochs=1, frozen_epochs=1).cautions()
    assert told == [f"caution: {each}" for each in cautions]
    events = (record.path / "events.jsonl").read_text("utf-8")
    assert "after the first task the module does not learn" in events
