"""Hold the house: arrows between wings, what lies where, how long a file is, and tests that mirror it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PLUGINS = ("strategies", "streams")
LINES = 300
# What is longer, and why. A file that is cut leaves this list, and none comes to it.
LONGER = {
    "strategies/avalanche.py": "holds what each strategy of Avalanche is called there, takes and refuses",
}


def imported(file: Path, package: str) -> Iterator[str]:
    """Everything that a file imports anywhere, by its whole name, and what it might mean by ``from``."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [package if node.level else "", node.module]))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_arrows_run_downwards_and_no_wing_goes_in_circles(checkout: Path) -> None:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        capture_output=True,
        text=True,
        cwd=checkout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", PLUGINS)
def test_only_the_registry_imports_what_lies_in_a_plugin_folder(checkout: Path, kind: str) -> None:
    concrete = {f"clbench.{kind}.{file.stem}" for file in checkout.glob(f"{kind}/*.py")}
    assert concrete
    for folder in ("clbench", *PLUGINS):
        for file in (checkout / folder).rglob("*.py"):
            meant = {".".join(name.split(".")[:3]) for name in imported(file, f"clbench.{folder}")}
            assert not meant & concrete, f"{file.relative_to(checkout)} imports {meant & concrete}"


def test_the_ground_floor_has_few_rooms(checkout: Path) -> None:
    assert len(list(checkout.glob("clbench/*.py"))) <= 14


def test_no_file_is_too_long_but_for_those_with_a_reason(checkout: Path) -> None:
    files = [file for folder in ("clbench", *PLUGINS) for file in (checkout / folder).rglob("*.py")]
    too_long = {file for file in files if len(file.read_text("utf-8").splitlines()) > LINES}
    assert {file.relative_to(checkout).as_posix() for file in too_long} == set(LONGER)


def test_the_folders_of_tests_are_wings(checkout: Path) -> None:
    wings = {file.parent.name for file in checkout.glob("clbench/*/__init__.py")}
    folders = {file.relative_to(checkout / "tests").parts[0] for file in checkout.glob("tests/*/**/*.py")}
    assert folders <= {*wings, "torture"}  # which goes through all of them


def test_no_test_file_stands_in_a_package_or_imports_another(checkout: Path) -> None:
    files = list(checkout.glob("tests/**/*.py"))
    assert not [file for file in files if file.name == "__init__.py"]
    names = {file.stem for file in files} | {"tests"}
    for file in files:
        tops = {name.split(".")[0] for name in imported(file, "tests")}
        assert not tops & names, f"{file.relative_to(checkout)} imports {tops & names}"
