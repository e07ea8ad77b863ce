"""What an author types: ``new`` writes a file that ``check`` passes and ``run`` takes; mistakes are told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clbench.cli.app import main
from clbench.cli.beginning import RUN_WITH
from clbench.cli.listing import OWN_KINDS, REGISTRIES
from clbench.evaluate import METRICS
from clbench.records.record import Record

QUICK = ["stream.tasks=2", "stream.train_per_class=8", "stream.test_per_class=4", "strategy.epochs=1"]
SETTINGS = [word for each in QUICK for word in ("--set", each)]
KINDS = [
    pytest.param(kind, marks=[] if kind in ("metric", "stream") else [pytest.mark.slow]) for kind in OWN_KINDS
]
TITLES = {kind: "my_own" if kind == "metric" else "MyOwn" for kind in OWN_KINDS}
HEAVY = {"torch", "timm", "torchvision", "avalanche", "pandas", "matplotlib", "sklearn", "pyarrow"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache")
    monkeypatch.setattr("clbench.devices.available", lambda: ["cpu"])
    yield tmp_path
    METRICS.pop("my-own", None)
    for registry in REGISTRIES.values():
        for known in (registry._classes, registry._cards, registry._modules):
            known.pop("my-own", None)


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command ends with."""
    assert main(list(words)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in ("metric", "stream") else [pytest.mark.slow])
        for kind in OWN_KINDS
    ],
)
def test_what_new_writes_passes_the_check(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", kind, "my_own"]) == 0
    check = f"clbench check my_own.py:{TITLES[kind]}"
    assert check in capsys.readouterr().out
    assert main(check.split()[1:]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len([line for line in told if line.startswith(("✓", "ok "))]) >= 7
    assert told[-1] == f"my_own.py:{TITLES[kind]} keeps the contract of a {kind}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", OWN_KINDS)
def test_what_new_writes_can_be_run(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", kind, "my_own"]) == 0
    command = RUN_WITH[kind].format(address=f"my_own.py:{TITLES[kind]}")
    assert command in capsys.readouterr().out
    assert main([*command.split()[1:], *SETTINGS]) == 0
    (folder,) = (file.parent for file in here.glob("runs/*/metrics.json"))
    metrics = Record.open(folder).read_json("metrics.json")
    assert metrics["accuracy"] is not None
    assert ("my-own" in metrics) == (kind == "metric")


def test_new_overwrites_nothing_and_hides_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.py").write_text("precious")
    assert "mine.py is there already" in error(capsys, "new", "metric", "mine")
    assert (here / "mine.py").read_text() == "precious"
    assert "would hide the Python module 'torch'" in error(capsys, "new", "strategy", "torch")
    assert "there is a petl 'bi-lora' already" in error(capsys, "new", "petl", "bi_lora")
    assert "there is a metric 'forgetting' already" in error(capsys, "new", "metric", "forgetting")
    for name in ("My", "a/b", "../x", "1st", "class", "", "a-b"):
        assert "use lower-case letters" in error(capsys, "new", "metric", name)
    assert "did you mean 'strategy'" in error(capsys, "new", "strategies", "mine")
    assert [file.name for file in here.iterdir()] == ["mine.py"]


def test_new_imports_nothing_heavy(here: Path) -> None:
    words = ["new", "strategy", "my_own"]
    code = (
        f"import sys; from clbench.cli.app import main; main({words}); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (here / "my_own.py").is_file()
    assert not HEAVY & set(done.stderr.split())


def test_check_ends_with_the_first_broken_promise(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "metric", "my_own"]) == 0
    file = here / "my_own.py"
    file.write_text(file.read_text().replace("return float(", "return 1.0 + 0.0 * len("))
    line = error(capsys, "check", "my_own.py")
    assert line.startswith("error: my_own (my_own.py:") or "does not keep its contract" in line
    assert "Traceback" not in line


def test_check_says_what_it_cannot_check(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "two.py").write_text("class A:\n    pass\n")
    assert "no file none.py" in error(capsys, "check", "none.py:A")
    assert "two.py has no 'B'" in error(capsys, "check", "two.py:B")
    assert "is no strategy, stream, module, quantiser, compressor or metric" in error(
        capsys, "check", "two.py:A"
    )
    assert "did you mean 'stream'" in error(capsys, "check", "two.py:A", "--kind", "steam")
    assert "write metric.OPTION=VALUE" in error(capsys, "check", "forgetting", "--set", "strategy.epochs=1")


def test_debug_prints_the_traceback_before_the_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.py").write_text("import no_such_package\n\n\nclass Mine:\n    pass\n")
    words = ["run", "--strategy", "mine.py:Mine"]
    assert main(words) == 2
    assert "Traceback" not in capsys.readouterr().err
    for typed in ([*words, "--debug"], ["--debug", *words]):
        assert main(typed) == 2
        told = capsys.readouterr().err
        assert "Traceback" in told
        assert "ModuleNotFoundError: No module named 'no_such_package'" in told
        assert told.splitlines()[-1].startswith("error: mine.py:1: it imports 'no_such_package'")
