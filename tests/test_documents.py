"""Run the code that README and CONTRIBUTING show, so that it stays true."""

from __future__ import annotations

import re
import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch

from clbench import Strategy, Stream, backbones, evaluate, strategies, streams
from clbench.backbones import BackboneOptions
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.streams import Places
from clbench.testing import check_strategy


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


def test_the_readme_strategy_is_found_by_its_file_and_keeps_the_contract(
    checkout: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(shown(checkout / "README.md", "mine.py"))
    mine = strategies.get(f"{file}:Mine")
    assert issubclass(mine, Strategy)
    check_strategy(mine)


def test_the_shown_stream_gives_tasks(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = streams.registry
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    monkeypatch.setattr(registry, "_cards", dict(registry._cards))
    code = shown(checkout / "CONTRIBUTING.md", "streams/split_noise.py")
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
    gains = loaded(shown(checkout / "CONTRIBUTING.md", "clbench/petl/gain.py"), tmp_path, "gain")["Gains"]
    assert isinstance(gains, type)
    assert issubclass(gains, Petl)
    backbone = backbones.create("vit-micro", BackboneOptions(weights="none"))
    images = torch.randn(2, 3, 32, 32, generator=Seeds(0).generator("images"))
    before = backbone(images)
    attached = gains().attach(backbone, Seeds(0).generator("petl"))
    assert torch.equal(backbone(images), before)
    backbone(images).sum().backward()
    assert all(np.isfinite(p.grad.numpy()).all() and p.grad.any() for p in attached.parameters())


def test_readme_marks_the_two_commands_that_ci_runs(checkout: Path) -> None:
    text = (checkout / "README.md").read_text("utf-8")
    commands = re.findall(r"<!-- ci: (run|test) -->\n```sh\n([^\n]+)\n```", text)
    assert [name for name, _ in commands] == ["run", "test"]
    assert all(command.startswith("python3 -m venv .venv && ") for _, command in commands)


def test_the_two_lines_of_the_readme_attach_a_module(checkout: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (checkout / "README.md").read_text("utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "clbench.petl.attach" in block]
    shown_here = loaded(code, tmp_path, "modules")
    # ViT-Ti, rank 16: 2 D r + 144 r + r^3
    assert shown_here["module"].num_parameters == 2 * 192 * 16 + 144 * 16 + 16**3
    shown_here["module"].save(tmp_path / "fact.safetensors")
    assert (tmp_path / "fact.safetensors").stat().st_size < 60_000


def test_the_shown_metric_is_computed(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "METRICS", {})
    loaded(shown(checkout / "CONTRIBUTING.md", "clbench/evaluate/metrics/spread.py"), tmp_path, "spread")
    accuracy = np.array([[0.9, np.nan], [0.5, 0.8]])
    assert evaluate.compute(evaluate.Results(accuracy, accuracy, np.array([1, 1]))) == {
        "spread": pytest.approx(0.3)
    }
