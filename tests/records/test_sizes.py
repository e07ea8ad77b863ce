"""A size in bytes is read as people write it, and written in one way."""

from __future__ import annotations

import pytest

from clbench.options import SpecError
from clbench.records.resolving import resolve
from clbench.records.sizes import bytes_of, canonical, size_of
from clbench.records.spec import RunSpec


@pytest.mark.parametrize(
    ("text", "size"),
    [("2MB", 2_000_000), ("1.5 kB", 1500), ("2MiB", 2_097_152), ("800", 800), ("0.3mb", 300_000), ("7B", 7)],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert bytes_of(text) == size
    assert bytes_of(size_of(size)) == size


@pytest.mark.parametrize("text", ["2000kB", "2 MB", "2.0MB", "0.002GB", "2000000"])
def test_equal_sizes_are_written_alike(text: str) -> None:
    assert canonical(text) == "2MB"
    assert canonical("") == ""


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "2 parsec", "0", "1e3kB", "٣MB", "0.0001B", "9" * 40])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a size is"):
        bytes_of(text)


def spec_of(**run: str) -> RunSpec:
    return resolve({"strategy": {"name": "er"}, "run": {"device": "cpu", **run}})


def test_a_budget_counts_in_the_id_only_where_there_is_one() -> None:
    assert "budget" not in spec_of().to_toml()
    assert spec_of(budget="2000kB").id == spec_of(budget="2MB").id != spec_of().id
    assert RunSpec.from_toml(spec_of(budget="2MB").to_toml()) == spec_of(budget="2MB")


def test_the_size_of_a_memory_follows_from_the_budget() -> None:
    sections = {"strategy": {"name": "er", "memory_size": 7}, "run": {"device": "cpu", "budget": "2MB"}}
    assert resolve(sections).id == spec_of(budget="2MB").id
    del sections["run"]["budget"]  # type: ignore[attr-defined]
    assert resolve(sections).id != spec_of().id


def test_a_budget_that_is_no_size_is_told_in_one_line() -> None:
    with pytest.raises(SpecError, match=r"^run.budget: '2 parsec' is not allowed: a size is .*units: B, kB"):
        spec_of(budget="2 parsec")
