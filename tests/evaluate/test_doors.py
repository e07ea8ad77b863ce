"""A metric comes through one of three doors, and is computed at the end of a run and over old records."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from clbench import load_runs
from clbench.cards import RegistryError
from clbench.cli.app import main
from clbench.cli.listing import REGISTRIES
from clbench.evaluate import METRICS, find, find_all, names
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.registry import UnknownNameError

MINE = '''"""Count."""

from clbench.evaluate import metric


@metric("owner.half", formula="1/2", averaging="none", reference="own", unknown="never evaluated")
def half(results):
    """Give a half."""
    return 0.5
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "half_of_a_third_party.py").write_text(MINE)
    yield tmp_path / "half_of_a_third_party.py"
    METRICS.pop("owner.half", None)
    sys.modules.pop("half_of_a_third_party", None)


def test_the_first_door_is_a_file_of_the_package() -> None:
    assert find("forgetting") is METRICS["forgetting"]
    assert names()[: len(METRICS)] == list(METRICS)


def test_the_second_door_is_an_entry_point(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("owner.half", "half_of_a_third_party:half", "clbench.metrics")
    monkeypatch.setattr("clbench.registry.entry_points", lambda group: [point])
    assert names()[-1] == "owner.half"
    assert "owner.half" not in METRICS  # nothing is imported before it is asked for
    assert find("owner.half").summary == "Give a half"


@pytest.mark.parametrize("address", ["{file}:half", "{file}", "half_of_a_third_party:half"])
def test_the_third_door_is_an_address(address: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = address.format(file=mine.name)
    assert find(typed) is METRICS["owner.half"]
    assert [each.name for each in find_all(f"{typed}, forgetting")] == ["owner.half", "forgetting"]
    assert main(["show", typed]) == 0
    assert "1/2" in capsys.readouterr().out


def test_an_edited_file_replaces_its_metric(mine: Path) -> None:
    first = find(mine.name)
    mine.write_text(MINE.replace("1/2", "2/4"))
    assert find(mine.name).formula == "2/4"
    assert find(mine.name) is not first


def test_what_is_no_metric_is_told(mine: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'forgetting'"):
        find("forgeting")
    with pytest.raises(UnknownNameError, match="no 'helf'; did you mean 'half'"):
        find(f"{mine.name}:helf")
    with pytest.raises(RegistryError, match=r"is no function with @metric"):
        find(f"{mine.name}:metric")
    mine.write_text(MINE.replace("owner.half", "forgetting"))
    with pytest.raises(RegistryError, match="'forgetting' is registered twice"):
        find(mine.name)


def test_the_option_changes_a_spec_only_where_it_is_set() -> None:
    plain = resolve({})
    assert "metrics" not in plain.to_toml()
    other = resolve({"run": {"metrics": "mine.py:half"}})
    assert other.id != plain.id
    assert RunSpec.from_toml(other.to_toml()) == other


def test_old_records_are_asked_for_it(mine: Path, write_run: Callable[..., Record]) -> None:
    write_run("naive")
    values = load_runs("runs", metrics=[mine.name]).metrics.set_index("metric").value
    assert values["owner.half"] == 0.5
    assert "owner.half" not in load_runs("runs").metrics.metric.to_list()


@pytest.mark.slow
@pytest.mark.parametrize("is_broken", [False, True])
def test_a_run_computes_it_and_loses_nothing_by_its_mistakes(
    is_broken: bool, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if is_broken:
        mine.write_text(MINE.replace("return 0.5", "return results.nothing"))
    quick = ["stream.tasks=2", "stream.train_per_class=8", "stream.test_per_class=4", "strategy.epochs=1"]
    words = [word for each in (*quick, f"run.metrics={mine.name}") for word in ("--set", each)]
    assert main(["run", "--strategy", "naive", *words]) == (2 if is_broken else 0)
    (folder,) = (file.parent for file in Path("runs").glob("*/metrics.json"))
    metrics = Record.open(folder).read_json("metrics.json")
    assert metrics["accuracy"] is not None
    assert metrics.get("owner.half") == (None if is_broken else 0.5)
    printed = capsys.readouterr()
    if is_broken:
        line = printed.err.splitlines()[-1]
        assert line.startswith("error: half (half_of_a_third_party.py:9): AttributeError")
        assert "the run is finished" in line
    else:
        assert "owner.half" in printed.out


@pytest.mark.parametrize("kind", ["metrics", "strategies", "streams", "petl"])
def test_a_list_imports_no_package(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = EntryPoint("owner.other", "a_package_that_is_broken:Other", f"clbench.{kind}")
    monkeypatch.setattr("clbench.registry.entry_points", lambda group: [point])
    if kind in REGISTRIES:
        monkeypatch.setitem(vars(REGISTRIES[kind]), "_entry_points", {"owner.other": point})
    assert main(["list", kind]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "owner.other of an installed package: a_package_that_is_broken:Other" in told
