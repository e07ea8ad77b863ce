"""Every common mistake in a stream, a module or a metric is told in one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from clbench import evaluate, petl, streams
from clbench.errors import UserError
from clbench.evaluate import catalogue
from clbench.options import build
from clbench.streams import Places
from clbench.testing import check_metric, check_petl, check_stream

STREAM = """
from dataclasses import dataclass

import numpy as np

from clbench.data.samples import Samples
from clbench.streams import Source, Stream


@dataclass
class Mine(Stream):
    size: int = 8

    def load(self, places):
        random = np.random.default_rng(0)
        labels = np.repeat(np.arange(10), 20)
        images = random.integers(256, size=(len(labels), self.size, self.size, 3), dtype=np.uint8)
        rows = np.arange(len(labels))
        train, test = rows[rows % 4 > 0], rows[rows % 4 == 0]
        return Source(
            train=Samples(images, train, labels[train]),
            test=Samples(images, test, labels[test]),
            class_names=[str(number) for number in range(10)],
        )
"""
STREAMS = {
    "load without return": ("return Source(", "Source(", "Mine.load() returned None; a return is missing"),
    "load of something else": ("return Source(", "return dict(", "Mine.load() returned a dict"),
    "images of floats": ("3), dtype=np.uint8)", "3)) / 255", "train images are float64, not uint8"),
    "images of one channel": ("self.size, 3)", "self.size, 1)", "not (N, H, W, 3)"),
    "labels in a list": ("train, labels[train])", "train, list(labels))", "train labels are a list"),
    "labels that are off by one": ("np.arange(10), 20)", "np.arange(1, 11), 20)", "a training label is 10"),
    "rows beyond the images": ("Samples(images, test,", "Samples(images, test + 9,", "test has a row 205"),
    "two arrays": ("Samples(images, test,", "Samples(images.copy(), test,", "two image arrays"),
    "another draw at each load": ("default_rng(0)", "default_rng()", "a second load gives other images"),
    "test images that are trained on": ("rows[rows % 4 > 0]", "rows", "an image is in two parts"),
    "mistake in load": ("np.arange(len(labels))", "np.arrange(9)", "Mine.load (mine.py:18): AttributeError"),
    "option that means something else": ("size: int = 8", "noise: int = 8", "has an option of this name"),
}
MODULE = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from clbench.backbones.sites import Branch
from clbench.petl import Petl


class Gain(Branch):
    def __init__(self, width, generator):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, inputs, output):
        return output * self.gain


@dataclass(frozen=True)
class Mine(Petl):
    identity_at_start: ClassVar[bool] = True

    def branches(self, backbone, generator):
        for block in backbone.blocks:
            yield block["mlp"], Gain(block["mlp"].width, generator)
"""
MADE, USED = "self.gain = nn.Parameter(torch.ones(width))", "output * self.gain"
MODULES = {
    "parameters in a plain list": (
        ((MADE, "self.gains = [nn.Parameter(torch.ones(width))]"), (USED, "output * self.gains[0]")),
        "branch[0].gains[0] requires a gradient but is not registered",
    ),
    "a module in a dictionary": (
        ((MADE, "self.nets = {'a': nn.LayerNorm(width)}"), (USED, "self.nets['a'](output)")),
        "branch[0].nets['a'].weight requires a gradient but is not registered",
    ),
    "the global generator": (
        ((MADE, "self.gain = nn.Parameter(1 + torch.randn(width))"),),
        "attaching draws from torch's global generator",
    ),
    "no identity": (((USED, "output * (self.gain + 1)"),), "identity_at_start is True, yet"),
    "not frozen": ((("(frozen=True)", ""),), "write @dataclass(frozen=True) above a module's class"),
    "a mistake in a branch": (((USED, "output @ self.gain[:3]"),), "mine.py:18): RuntimeError"),
    "branches(): an argument too few": ((("backbone, generator):", "backbone):"),), "is called as branches("),
    "batch mates": (
        ((USED, "output * self.gain + output.mean(0) * (self.gain - 1)"),),
        "other images of its",
    ),
}
METRIC = '''
"""Measure something."""

import numpy as np

from clbench.evaluate import metric


@metric("mine", formula="max - min", averaging="none", reference="own", unknown="never")
def mine(results):
    """Give the distance."""
    last = results.accuracy[-1, results.is_tested]
    return float(last.max() - last.min())
'''
METRICS = {
    "0 for unknown": (
        "float(last.max() - last.min())",
        "float(np.nan_to_num(last.max() - last.min()))",
        "metric mine is 0 of a run never evaluated; unknown is NaN",
    ),
    "no number": ("return float(last.max() - last.min())", "float(last.max())", "metric mine returned None"),
    "what it is given": (
        "    return",
        "    results.accuracy[:] = np.nan_to_num(results.accuracy)\n    return",
        "changes accuracy of what it is given",
    ),
    "order": (
        "    return",
        "    last[0] += np.append(results.last.get('confidence', []), np.nan)[0]\n    return",
        "of the same predictions in another order",
    ),
    "chance": ("last.min())", "last.min()) + np.random.default_rng().random()", "and the second time"),
    "a mistake": ("last.min()", "last[7]", "mine (mine.py:13): IndexError"),
    "no docstring": ('    """Give the distance."""\n', "", "its function has no docstring"),
    "no formula": ('formula="max - min"', 'formula=""', "formula is empty"),
    "a name that is taken": ('"mine"', '"forgetting"', "metric 'forgetting' is registered twice"),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in catalogue.METRICS if name == "mine"]:
        del catalogue.METRICS[name]
    return tmp_path


def changed(code: str, *changes: tuple[str, str]) -> None:
    """Write mine.py with changes, each of a text that is in it."""
    for old, new in changes:
        assert old in code
        code = code.replace(old, new)
    Path("mine.py").write_text(code)


def made(address: str, **options: object) -> streams.Stream:
    """Return the stream at an address, as a run makes it."""
    return build(streams.get(address), "stream", options)


@pytest.mark.parametrize("name", STREAMS)
def test_a_broken_stream_is_told(name: str, here: Path) -> None:
    old, new, words = STREAMS[name]
    changed(STREAM, (old, new))
    with pytest.raises((AssertionError, UserError)) as caught:
        check_stream(
            lambda **options: build(streams.get("mine.py:Mine"), "stream", options), Places(None, here)
        )
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MODULES)
def test_a_broken_module_is_told(name: str, here: Path) -> None:
    changes, words = MODULES[name]
    changed(MODULE, *changes)
    with pytest.raises((AssertionError, UserError)) as caught:
        check_petl(build(petl.get("mine.py:Mine"), "petl", {}))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", METRICS)
def test_a_broken_metric_is_told(name: str, here: Path) -> None:
    old, new, words = METRICS[name]
    changed(METRIC, (old, new))
    with pytest.raises((AssertionError, UserError)) as caught:
        check_metric(evaluate.find("mine.py:mine"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_are_whole_without_their_mistakes(here: Path) -> None:
    promises: list[str] = []
    changed(STREAM)
    check_stream(streams.get("mine.py:Mine"), Places(None, here), told=promises.append)
    changed(MODULE)
    check_petl(petl.get("mine.py:Mine")(), told=promises.append)
    changed(METRIC)
    check_metric(evaluate.find("mine.py:mine"), told=promises.append)
    assert len(promises) == 8 + 12 + 7


@pytest.mark.parametrize("name", evaluate.METRICS)
def test_every_metric_keeps_its_contract(name: str) -> None:
    check_metric(evaluate.METRICS[name])
