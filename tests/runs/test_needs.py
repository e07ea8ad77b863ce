"""A strategy that a stream or a backbone cannot serve is refused in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clbench import strategies
from clbench.cli.app import main
from clbench.runs.needs import NEEDS, NeedError, refuse_impossible
from clbench.testing import small_backbone
from clbench.testing.generated import generated_stream


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
