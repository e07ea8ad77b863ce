"""Run the code that README, CONTRIBUTING and the pages in docs/ show, so that it stays true."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import clbench
from clbench import Strategy, Stream, backbones, evaluate, petl, quant, strategies, streams
from clbench.backbones import BackboneOptions
from clbench.cli import app
from clbench.evaluate import catalogue
from clbench.petl import Petl
from clbench.records.record import Record
from clbench.seeds import Seeds
from clbench.streams import Places
from clbench.testing import check_strategy

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [pytest.param(file, id=file.relative_to(ROOT).as_posix()) for file in WRITTEN]
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b|\.\.\.|<")  # PATH, RUN, NAME: what a reader puts in


def blocks(document: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```$", document.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return [code for _, code in found]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of somebody who types what a page shows; what is imported from there is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(catalogue, "METRICS", dict(catalogue.METRICS))
    yield tmp_path
    typed = {
        name
        for name, module in sys.modules.items()
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path))
    }
    for registry in (streams.registry, strategies.registry, petl.registry, quant.registry):
        for name in [n for n, component in registry._classes.items() if component.__module__ in typed]:
            del registry._classes[name], registry._cards[name], registry._modules[name]
    for name in typed:
        del sys.modules[name]


def written_down(document: Path, folder: Path) -> list[str]:
    """Save the blocks that begin with a file's name under that name; return the others."""
    others = []
    for code in blocks(document, "python"):
        name = re.match(r"# (?:[\w-]+/)*(\w+\.py)\n", code)
        if name:
            (folder / name[1]).write_text(code)
        else:
            others.append(code)
    return others


def shown(document: Path, name: str) -> str:
    """The code block whose first line is the comment ``# name``."""
    (code,) = re.findall(rf"```python\n# {re.escape(name)}\n(.*?)```", document.read_text("utf-8"), re.DOTALL)
    return str(code)


def loaded(code: str, folder: Path, name: str) -> dict[str, object]:
    """What a file with this code defines."""
    file = folder / f"shown_{name}.py"
    file.write_text(code)
    spec = util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return vars(module)


@pytest.mark.parametrize("document", ["README.md", "docs/how-to/strategy.md"])
def test_the_shown_strategy_is_found_by_its_file_and_keeps_the_contract(
    document: str, checkout: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(shown(checkout / document, "mine.py"))
    mine = strategies.get(f"{file}:Mine")
    assert issubclass(mine, Strategy)
    check_strategy(mine)


def test_the_shown_stream_gives_tasks(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = streams.registry
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    monkeypatch.setattr(registry, "_cards", dict(registry._cards))
    code = shown(checkout / "docs/how-to/stream.md", "split_noise.py")
    noise = loaded(code, tmp_path, "noise")["SplitNoise"]
    assert isinstance(noise, type)
    assert issubclass(noise, Stream)
    stream = noise(tasks="5").build("split-noise", Places(None, tmp_path), Seeds(0))
    assert [task.classes for task in stream.tasks] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert [len(task.test) for task in stream.tasks] == [10] * 5


def test_the_shown_module_is_the_identity_at_the_start_and_learns(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import clbench.petl as modules

    monkeypatch.setattr(modules.registry, "_classes", dict(modules.registry._classes))
    monkeypatch.setattr(modules.registry, "_cards", dict(modules.registry._cards))
    gains = loaded(shown(checkout / "docs/how-to/module.md", "gain.py"), tmp_path, "gain")["Gains"]
    assert isinstance(gains, type)
    assert issubclass(gains, Petl)
    backbone = backbones.create("vit-micro", BackboneOptions(weights="none"))
    images = torch.randn(2, 3, 32, 32, generator=Seeds(0).generator("images"))
    before = backbone(images)
    attached = gains().attach(backbone, Seeds(0).generator("petl"))
    assert torch.equal(backbone(images), before)
    (backbone(images) * torch.arange(128.0)).sum().backward()  # a norm's outputs add up to the same, always
    assert all(np.isfinite(p.grad.numpy()).all() and p.grad.any() for p in attached.parameters())


def test_readme_marks_the_two_commands_that_ci_runs(checkout: Path) -> None:
    text = (checkout / "README.md").read_text("utf-8")
    commands = re.findall(r"<!-- ci: (run|test) -->\n```sh\n([^\n]+)\n```", text)
    assert [name for name, _ in commands] == ["run", "test"]
    assert all(command.startswith("python3 -m venv .venv && ") for _, command in commands)


def test_the_first_page_gives_the_commands_of_the_readme_and_what_a_run_prints(checkout: Path) -> None:
    readme, first = checkout / "README.md", checkout / "docs/index.md"
    assert blocks(first, "sh")[:2] == blocks(readme, "sh")[:2]
    assert blocks(first, "text") == blocks(readme, "text")


def test_the_readme_is_short(checkout: Path) -> None:
    assert len((checkout / "README.md").read_text("utf-8").splitlines()) < 120


def test_what_is_shown_for_a_timm_model_runs(checkout: Path, tmp_path: Path) -> None:
    code, *others = blocks(checkout / "docs/how-to/timm.md", "python")
    shown_here = loaded(code, tmp_path, "modules")
    # ViT-Ti, rank 16: 2 D r + 144 r + r^3
    assert shown_here["module"].num_parameters == 2 * 192 * 16 + 144 * 16 + 16**3
    shown_here["module"].save(tmp_path / "fact.safetensors")
    assert (tmp_path / "fact.safetensors").stat().st_size < 60_000
    for code in others:
        exec(compile(code, "timm", "exec"), shown_here)
    assert list(shown_here["weights"]) == list(timm.create_model("vit_tiny_patch16_224").state_dict())
    rates = [group["lr"] for group in shown_here["optimizer"].param_groups]
    assert rates == [1e-3, 16e-3, 1e-3]


def test_the_shown_metric_is_computed(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "METRICS", {})
    loaded(shown(checkout / "docs/how-to/metric.md", "spread.py"), tmp_path, "spread")
    accuracy = np.array([[0.9, np.nan], [0.5, 0.8]])
    assert evaluate.compute(evaluate.Results(accuracy, accuracy, np.array([1, 1]))) == {
        "spread": pytest.approx(0.3)
    }


@pytest.mark.parametrize("page", ["strategy", "stream", "module", "metric"])
def test_what_a_page_shows_for_testing_runs(page: str, checkout: Path, reader: Path) -> None:
    others = written_down(checkout / f"docs/how-to/{page}.md", reader)
    assert others
    for code in others:
        exec(compile(code, page, "exec"), {})


def test_the_shown_quantiser_keeps_the_contract(checkout: Path, reader: Path) -> None:
    *_, check = written_down(checkout / "docs/how-to/quantise.md", reader)
    exec(compile(check, "quantise", "exec"), {})


@pytest.mark.slow
def test_what_is_shown_of_few_bits_runs(
    checkout: Path, reader: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = checkout / "docs/how-to/quantise.md"
    reading, shipping, _ = written_down(page, reader)
    small = ["--set", "stream.train_per_class=20", "--set", "stream.test_per_class=2", "--device", "cpu"]
    (reader / "runs.toml").write_text(blocks(page, "toml")[0])
    assert app.main(["run", "--config", "runs.toml", "--strategy", "slda", "--out", "named", *small]) == 0
    assert app.main(["run", "--strategy", "slda", "--variant", "rtn:bits=4", *small]) == 0
    (run,) = (reader / "runs").iterdir()
    assert sorted(each.name for each in (run / "variants").iterdir()) == ["rtn-bits4"]
    names: dict[str, Any] = {}
    exec(compile(reading, "quantise", "exec"), names)
    assert set(names["runs"].metrics.variant) == {"", "rtn:bits=4"}
    exec(compile(shipping.replace("RUN", str(run)), "quantise", "exec"), names)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(reader / "photo.png")
    for line in [line for code in blocks(page, "sh") for line in code.splitlines()]:
        words = shlex.split(line.partition("  #")[0])[1:]
        if words[0] in ("export", "predict", "new", "check"):
            words = [str(run) if word == "RUN" else word for word in words]
            assert app.main(words) == 0, f"{line}: {capsys.readouterr().err}"


def test_what_is_shown_for_many_runs_runs(
    checkout: Path, reader: Path, write_run: Callable[..., Record]
) -> None:
    for seed in range(2):
        write_run("lae", seed=seed)
        write_run("naive", seed=seed, accuracy=0.25)
    reading, in_avalanche = blocks(checkout / "docs/how-to/report.md", "python")
    shown_here: dict[str, Any] = {}
    exec(compile(reading, "report", "exec"), shown_here)
    assert shown_here["runs"].metrics.value.notna().any()
    exec(compile(in_avalanche, "report", "exec"), shown_here)
    assert shown_here["experience"].classes_in_this_experience


@pytest.mark.slow
def test_what_is_shown_of_a_learner_runs(
    checkout: Path, reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From top to bottom, on a small run; what needs a bundle of somebody's strategy is left out."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: reader / "cache")
    small = ["--set", "stream.train_per_class=4", "--set", "stream.test_per_class=2", "--device", "cpu"]
    assert app.main(["run", "--strategy", "simplecil", "--out", "old", *small]) == 0
    (run,) = (reader / "old").iterdir()
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    for name in ("pictures/0/0", "photo", *(f"new/{kind}/{n}" for kind in ("bar", "dot") for n in range(3))):
        (reader / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(reader / f"{name}.png")
    page = (checkout / "docs/how-to/learner.md").read_text("utf-8")
    names: dict[str, Any] = {}
    for language, code in re.findall(r"^```(sh|python)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(code.replace("RUN", str(run)), "learner", "exec"), names)
            continue
        for line in code.splitlines():
            words = shlex.split(line.partition("  #")[0].partition(" > ")[0])[1:]
            new = max((reader / "runs").glob("*"), key=lambda each: each.stat().st_mtime, default=run)
            words = [{"RUN": str(run), "NEW_RUN": str(new)}.get(word, word) for word in words]
            if "BUNDLE" not in words:
                assert app.main(words) == 0, f"{line}: {capsys.readouterr().err}"
    assert names["said"].scores.shape == (2, 10)
    assert clbench.load(names["record"].path).class_names[-2:] == ["bar", "dot"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_shown_python_is_python(document: Path) -> None:
    for code in blocks(document, "python"):
        assert ast.parse(code).body


@pytest.mark.parametrize("document", DOCUMENTS)
def test_shown_commands_are_understood(
    document: Path, reader: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run prints its spec instead of running; what needs somebody's data or minutes is left out."""
    written_down(document, reader)
    commands = [
        line.partition("  #")[0].strip()
        for code in blocks(document, "sh")
        for line in code.splitlines()
        if re.match(r"clbench (run|show|list) ?", line.strip())
    ]
    for command in commands:
        if PLACEHOLDER.search(command) or ("--backbone" in command and " list " in command):
            continue
        words = shlex.split(command)[1:]
        if words[0] == "run" and "--dry-run" not in words:
            words.append("--dry-run")
        assert app.main(words) == 0, f"{command}: {capsys.readouterr().err}"
