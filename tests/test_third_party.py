"""A third party's strategy, in one file, works through every door."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from clbench import strategies
from clbench.registry import Registry, UnknownNameError
from clbench.strategies import Strategy
from clbench.testing import check_strategy

MINE = '''
"""Learn a head on frozen features, by squared error."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from clbench.learning.heads import GrowingHead
from clbench.strategies import Strategy, register


@register("owner.mine", petl="linear")
@dataclass
class Mine(Strategy):
    """The smallest strategy there is."""

    sharpness: float = 4.0  # multiplies the logits

    def setup(self, backbone, petl, seeds):
        self.backbone, self.seeds = backbone, seeds
        self.module = petl.attach(backbone, seeds.generator("petl"))
        self.head = GrowingHead(backbone.width)

    def parts(self):
        return {"petl": self.module, "head": self.head}

    def begin_task(self, task):
        self.head.grow(len(task.new_classes), self.seeds.generator("head", task.index), self.backbone.device)

    def loss(self, batch):
        scores = self.predict(batch)
        return F.mse_loss(scores, F.one_hot(batch.labels, scores.shape[1]).float())

    def predict(self, inputs):
        return torch.softmax(self.sharpness * self.head(inputs.features(self.backbone)), dim=1)
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "mine_of_a_third_party.py"
    file.write_text(MINE)
    registry: Registry[Strategy] = Registry("strategies", "clbench.strategies")
    monkeypatch.setattr(strategies, "registry", registry)
    monkeypatch.setattr(strategies, "register", registry.register)
    monkeypatch.setattr(strategies, "names", registry.names)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file
    for name in [name for name in sys.modules if "mine_of_a_third_party" in name]:
        del sys.modules[name]


def test_a_file_and_a_class(mine: Path):
    found = strategies.get(f"{mine}:Mine")
    assert found.__name__ == "Mine"
    assert found(sharpness=2.0).sharpness == 2.0


def test_a_file_with_one_registered_class(mine: Path):
    assert strategies.get(str(mine)).__name__ == "Mine"


def test_a_module_and_a_class(mine: Path):
    assert strategies.get("mine_of_a_third_party:Mine").__name__ == "Mine"


def test_an_entry_point_is_imported_only_when_its_name_is_asked_for(mine: Path):
    info = mine.parent / "owner_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: owner-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clbench.strategies]\nowner.mine = mine_of_a_third_party:Mine\n")
    importlib.invalidate_caches()
    assert "owner.mine" in strategies.names()
    assert "mine_of_a_third_party" not in sys.modules
    assert strategies.get("owner.mine").__name__ == "Mine"


def test_it_keeps_the_contract(mine: Path):
    make = strategies.get(f"{mine}:Mine")
    check_strategy(lambda: make(epochs=3, batch_size=8, learning_rate=0.05), module="linear")


def test_a_broken_strategy_is_told_what_it_broke(mine: Path):
    mine.write_text(MINE.replace("dim=1)\n", "dim=0)\n"))  # scores normalised over the batch
    make = strategies.get(f"{mine}:Mine")
    with pytest.raises(AssertionError, match=r"gets other scores|does not fall"):
        check_strategy(lambda: make(epochs=3, batch_size=8, learning_rate=0.05), module="linear")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("{file}:Nine", ["no 'Nine'", "did you mean 'Mine'"]),
        ("{folder}/absent.py:Mine", ["no file"]),
        ("no_such_module_at_all:Mine", ["no module named"]),
    ],
)
def test_a_wrong_address_is_explained(mine: Path, address: str, words: list[str]):
    with pytest.raises(UnknownNameError) as caught:
        strategies.get(address.format(file=mine, folder=mine.parent))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.slow
def test_a_file_runs_from_the_command_line(mine: Path):
    settings = ["stream.tasks=2", "stream.train_per_class=8", "stream.test_per_class=4", "strategy.epochs=1"]
    arguments = [word for setting in settings for word in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "clbench",
        "run",
        "--strategy",
        f"{mine}:Mine",
        "--backbone",
        "vit-micro",
    ]
    done = subprocess.run(
        [*command, "--out", str(mine.parent / "runs"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (mine.parent / "runs").iterdir()
    assert (folder / "metrics.json").is_file()
