"""Check that what is built and installed holds every file that the repository holds."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import clbench
from clbench.quant.kernels.compiling import Compiler
from clbench.registry import Registry, plugin_path

FOLDERS = ("clbench", "strategies", "streams")
KERNELS = "clbench/quant/kernels/low_bit.so"


def tracked(checkout: Path, *folders: str) -> set[str]:
    """Names of the files that git knows and that are there."""
    if shutil.which("git") is None or not (checkout / ".git").exists():
        pytest.skip("needs git and a clone: compares the packages with the files in git")
    listed = subprocess.run(
        ["git", "-C", str(checkout), "ls-files", "-z", *folders], check=True, capture_output=True, text=True
    ).stdout
    return {name for name in listed.split("\0") if name and (checkout / name).is_file()}


def build(source: Path, target: Path, kind: str, **variables: str) -> Path:
    """Build a wheel or an sdist from a folder, without network."""
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        f"--{kind}",
        "--outdir",
        str(target),
        str(source),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=source, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


def wheel_files(wheel: Path) -> dict[str, bytes]:
    """Names and contents of what the wheel installs into the package."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.startswith("clbench/")}


@pytest.fixture(scope="module")
def source(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files in git, as a fresh clone would have them."""
    copy = tmp_path_factory.mktemp("source")
    for name in tracked(checkout):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkout / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the tree."""
    for package in ("build", "hatchling"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install -e '.[dev]'")
    return build(source, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(wheel: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist built from the tree."""
    return build(source, tmp_path_factory.mktemp("sdist"), "sdist")


def installed_name(name: str) -> str:
    """Where a file of the repository lies in the wheel."""
    return name if name.startswith("clbench/") else f"clbench/{name}"


def test_wheel_holds_every_file_in_git_and_no_other(wheel: Path, checkout: Path) -> None:
    made = {KERNELS} if Compiler.here() else set()
    files = {installed_name(name) for name in tracked(checkout, *FOLDERS)}
    assert set(wheel_files(wheel)) == files | made
    assert wheel.name.endswith("-py3-none-any.whl") == (not made)


@pytest.mark.parametrize("compiler", ["none", "false"])  # one is not there, the other cannot do it
def test_wheel_without_a_compiler_is_for_every_machine_and_lacks_the_kernels_alone(
    compiler: str, source: Path, wheel: Path, tmp_path: Path
) -> None:
    pure = build(source, tmp_path, "wheel", CC=compiler)
    assert pure.name.endswith("-py3-none-any.whl")
    assert wheel_files(pure) == {name: data for name, data in wheel_files(wheel).items() if name != KERNELS}


def test_wheel_says_that_it_is_typed_and_names_its_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        assert "clbench = clbench.cli:main" in archive.read(entry_points).decode()
        assert "clbench/py.typed" in archive.namelist()
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())


def test_wheel_stays_small(wheel: Path) -> None:
    assert (
        wheel.stat().st_size < 6_000_000
    )  # the weights of vit-micro, as it is and as it was first, take 4.6


def test_sdist_holds_every_package_and_test_file_in_git(sdist: Path, checkout: Path) -> None:
    with tarfile.open(sdist) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert tracked(checkout, *FOLDERS, "tests", "notebooks", "hatch_build.py", "README.md") <= inside


def test_wheel_from_the_sdist_equals_the_wheel_from_the_tree(
    sdist: Path, wheel: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert wheel_files(build(unpacked, tmp_path / "built", "wheel")) == wheel_files(wheel)


def test_untracked_files_that_are_no_python_stay_out_of_a_plugin_folder(
    source: Path, wheel: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(source, tmp_path / "copy")
    (copy / "strategies" / ".env").write_text("SECRET=1")
    (copy / "streams" / "notes.txt").write_text("not code")
    assert set(wheel_files(build(copy, tmp_path / "built", "wheel"))) == set(wheel_files(wheel))


def test_plugin_folders_hold_no_package_file(checkout: Path) -> None:
    assert not list(checkout.glob("strategies/__init__.py"))
    assert not list(checkout.glob("streams/__init__.py"))
    assert not (checkout / "tests" / "__init__.py").exists()  # another installed package owns that name


def test_plugin_path_looks_beside_the_package_only_in_a_checkout(tmp_path: Path) -> None:
    package_file = tmp_path / "clbench" / "strategies" / "__init__.py"
    assert plugin_path(str(package_file)) == [str(package_file.parent)]
    (tmp_path / "pyproject.toml").touch()
    assert plugin_path(str(package_file)) == [str(package_file.parent), str(tmp_path / "strategies")]


def test_a_file_imported_under_two_names_gives_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``import strategies.lae`` beside ``clbench.strategies.lae``, in small."""
    (tmp_path / "outer" / "plugs").mkdir(parents=True)
    (tmp_path / "outer" / "__init__.py").touch()
    (tmp_path / "outer" / "plugs" / "__init__.py").write_text(
        "from clbench.registry import Registry\n"
        f"__path__ = [{str(tmp_path / 'plugs')!r}]\n"
        "registry = Registry('plugs', __name__)\n"
        "register = registry.register\n"
    )
    (tmp_path / "plugs").mkdir()
    (tmp_path / "plugs" / "one.py").write_text(
        "from outer.plugs import register\n@register('one')\nclass One: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry: Registry[object] = importlib.import_module("outer.plugs").registry
    assert registry.get("one").__module__ == "outer.plugs.one"
    with pytest.raises(ValueError, match=r"imported as outer\.plugs\.one and plugs\.one; import it as outer"):
        importlib.import_module("plugs.one")


def test_what_is_imported_is_declared_and_what_is_declared_is_imported(checkout: Path) -> None:
    text = (checkout / "pyproject.toml").read_text()
    block = text[text.index("\ndependencies = [") : text.index("[project.optional-dependencies]")]
    extras = text[text.index("[project.optional-dependencies]") : text.index("dev = [")]
    declared = set(re.findall(r'^    "([a-z0-9-]+)', block, re.MULTILINE))
    optional = set(re.findall(r'"([a-z0-9-]+)>=', extras))  # some are asked for by torch, or run notebooks
    trees = [
        ast.parse(file.read_text("utf-8")) for folder in FOLDERS for file in (checkout / folder).rglob("*.py")
    ]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    newer = {"tomllib", "annotationlib"}  # of Python's own, from 3.11 and 3.14 on
    tops = {module.split(".")[0] for module in modules} - {*sys.stdlib_module_names, *newer, "clbench"}
    # one is not installed everywhere, and Python 3.10 does not see what the other installs
    named = {"pynvml": ["nvidia-ml-py"], "sklearn": ["scikit-learn"]}
    packages = {**named, **packages_distributions()}
    imported = {packages.get(top, [top])[0].lower().replace("_", "-") for top in tops}
    assert declared <= imported <= declared | optional


def test_the_changelog_names_the_version_of_the_package(checkout: Path) -> None:
    newest = re.search(r"^## ([0-9.]+)", (checkout / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == clbench.__version__
