"""Every common mistake in a strategy is told in one line that names it, and where it is, or its cause."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from clbench import strategies
from clbench.errors import UserError
from clbench.options import build
from clbench.testing import check_strategy

GOOD = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from clbench.learning.heads import GrowingHead
from clbench.strategies import Strategy


@dataclass
class Mine(Strategy):
    epochs: int = 2
    batch_size: int = 8
    smoothing: float = 0.1

    def setup(self, backbone, petl, seeds):
        self.backbone, self.seeds = backbone, seeds
        self.module = petl.attach(backbone, seeds.generator("petl"))
        self.head = GrowingHead(backbone.width)
        # setup

    def parts(self):
        return {"petl": self.module, "head": self.head}

    def begin_task(self, task):
        self.head.grow(len(task.new_classes), self.seeds.generator("head", task.index), self.backbone.device)

    def loss(self, batch):
        # loss
        logits = self.head(batch.features(self.backbone))
        return F.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)

    def end_task(self, task, images):
        pass

    def predict(self, inputs):
        return torch.softmax(self.head(inputs.features(self.backbone)), dim=1)
"""
LOSS = "return F.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)"
GROW = 'self.head.grow(len(task.new_classes), self.seeds.generator("head", task.index), self.backbone.device)'
PARTS = '{"petl": self.module, "head": self.head}'
SCORES = "torch.softmax(self.head(inputs.features(self.backbone)), dim=1)"
AT_SIGHT = {  # told by the class alone: what is replaced by what, and words of the line
    "no dataclass": ("@dataclass\n", "", "Mine is no dataclass; write @dataclass above class Mine"),
    "option without a type": ("smoothing: float", "smoothing", "Mine.smoothing has no type"),
    "other default of an option, without a type": ("epochs: int", "epochs", "write epochs: int = 2"),
    "option of a type that cannot be typed": (
        "smoothing: float = 0.1",
        "smoothing: object = 0.1",
        "Mine.smoothing: object is no type of an option (allowed: bool, int, float, str, Literal)",
    ),
    "default of another type": ("float = 0.1", 'float = "a lot"', "its default 'a lot' is not of its type"),
    "option that means something else": (
        "smoothing: float = 0.1",
        "schedule: float = 0.1",
        "Strategy has an option of this name",
    ),
    "option without a default": ("smoothing: float = 0.1", "smoothing: float", "give every option a default"),
    "list as a default": ("smoothing: float = 0.1", "layers: list = []", "an option is a number, a text"),
    "import of what is not there": (
        "import numpy as np",
        "import no_such_package",
        "mine.py:5: it imports 'no_such_package', which is not installed here",
    ),
    "mistake at import": ("import numpy as np", "1 / 0", "mine.py:5: ZeroDivisionError"),
    "hook without its argument": ("loss(self, batch)", "loss(self)", "is called as loss(self, batch)"),
    "hook left out": ("def predict", "def predikt", "abstract method"),
}
IN_A_TRIAL = {
    "loss without return": (LOSS, "F.cross_entropy(logits, batch.labels)", "loss() returned None; a return"),
    "loss that is a number": (LOSS, LOSS + ".item()", "cut off from what is trained (.item()?)"),
    "loss that is detached": (LOSS, LOSS + ".detach()", "loss() is detached"),
    "loss that is no scalar": (
        LOSS,
        'return F.cross_entropy(logits, batch.labels, reduction="none")',
        "(8,)",
    ),
    "parts that are a list": (
        PARTS,
        "[self.module, self.head]",
        "parts() returned a list; return a dictionary",
    ),
    "parts that hold a tensor": (
        '"head": self.head}',
        '"head": torch.ones(1)}',
        "holds a Tensor under 'head'",
    ),
    "head that does not grow": (GROW, "if task.index == 0: " + GROW, "grow it in begin_task"),
    "head that never grew": (GROW, "pass", "grow it in begin_task"),
    "predict of too few classes": (SCORES, SCORES + "[:, :1]", "scores of 1 classes where 2 have been seen"),
    "predict of labels": (SCORES, SCORES + ".argmax(1)", "predict() returned int64 of shape"),
    "labels that are off by one": (
        "logits, batch.labels,",
        "logits, batch.labels + 1,",
        "mine.py:35): IndexError",
    ),
    "width that is off": (
        "GrowingHead(backbone.width)",
        "GrowingHead(7)",
        "features are backbone.width wide",
    ),
    "attribute that is not made": ("# loss", "self.teacher.eval()", "is it made in setup()"),
    "parameter in no part": (
        "# setup",
        "self.scale = nn.Parameter(torch.ones(1))",
        "self.scale requires a gradient",
    ),
    "module in no part": ("# setup", "self.nets = [nn.Linear(2, 2)]", "self.nets[0].weight"),
    "nothing to train": (PARTS, '{"petl": self.module}', "nothing in parts() requires a gradient"),
    "scores that are not finite": (SCORES, SCORES + " / 0", "not finite"),
    "logits declared as probabilities": (
        "return torch.softmax(self.head(inputs.features(self.backbone)), dim=1)",
        "return self.head(inputs.features(self.backbone))\n\n    gives_probabilities: ClassVar[bool] = True",
        "rows of scores are below 0 or do not sum to 1",
    ),
    "backbone that is not frozen": (
        "# setup",
        "backbone.requires_grad_(True)",
        "its model.cls_token requires",
    ),
    "images changed in place": (
        "# loss",
        "batch.images.add_(1)",
        "Mine.loss changes the images that it is given",
    ),
    "labels changed in place": ("# loss", "batch.labels.clamp_(max=0)", "Mine.loss changes the labels"),
    "features changed in place": (
        "batch.features(self.backbone)",
        "batch.features(self.backbone).relu_()",
        "the features",
    ),
    "task changed in place": (
        GROW,
        GROW + "; task.classes.sort(reverse=True)",
        "Mine.begin_task changes the classes of",
    ),
    "other scores in a batch": ("dim=1)", "dim=0)", "an image gets other scores"),
}
# Probabilities, because a log keeps of other scores the order alone.
SHIFTED = """(self.head(inputs.features(self.backbone)) + {} * torch.arange(
            2.0 * len(self.head.tasks))).softmax(dim=1)

    gives_probabilities: ClassVar[bool] = True"""
IN_SEVERAL_TRIALS = {
    "torch's global generator": (
        GROW,
        GROW + "; nn.init.normal_(self.head.tasks[-1].weight)",
        "begin_task draws from torch's global generator",
    ),
    "numpy's global generator": (LOSS, LOSS + " * (1 + np.random.rand())", "loss draws from numpy's global"),
    "state in a list": (
        ("# setup", "self.means = []"),
        ("        pass\n", "        self.means.append(float(images.features(self.backbone).abs().mean()))\n"),
        (SCORES, SHIFTED.format("self.means[0]")),
        "lost when it stopped, being in none of parts(): self.means[0]",
    ),
    "tensor in no part": (
        ("# setup", "self.shift = torch.zeros(1)"),
        ("        pass\n", "        self.shift = self.shift + images.features(self.backbone).abs().mean()\n"),
        (SCORES, SHIFTED.format("self.shift")),
        "lost when it stopped, being in none of parts(): self.shift",
    ),
}


def broken(folder: Path, changes: tuple[tuple[str, str], ...]) -> str:
    """Write the strategy with changes, each of a text that is in it, and return its address."""
    code = GOOD
    for old, new in changes:
        assert old in code
        code = code.replace(old, new)
    (folder / "mine.py").write_text(code)
    return "mine.py:Mine"


def told(folder: Path, changes: tuple[tuple[str, str], ...]) -> str:
    """Return the line about a strategy with these changes."""
    address = broken(folder, changes)
    with pytest.raises((AssertionError, UserError)) as caught:
        check_strategy(partial(build, strategies.get(address), "strategy", {}))
    return str(caught.value)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", AT_SIGHT)
def test_a_mistake_of_the_class_is_told_at_sight(name: str, here: Path) -> None:
    old, new, words = AT_SIGHT[name]
    line = told(here, ((old, new),))
    assert words in line
    assert "\n" not in line


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_A_TRIAL)
def test_a_mistake_of_a_hook_is_told(name: str, here: Path) -> None:
    old, new, words = IN_A_TRIAL[name]
    line = told(here, ((old, new),))
    assert words in line
    assert "\n" not in line


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_SEVERAL_TRIALS)
def test_a_mistake_that_two_runs_show_is_told(name: str, here: Path) -> None:
    *changes, words = IN_SEVERAL_TRIALS[name]
    line = told(here, tuple(changes) if isinstance(changes[0], tuple) else (tuple(changes),))
    assert words in line
    assert "\n" not in line


@pytest.mark.slow
def test_the_strategy_without_a_mistake_passes(here: Path) -> None:
    promises: list[str] = []
    check_strategy(strategies.get(broken(here, ())), told=promises.append)
    assert len(promises) == len(set(promises)) == 10
