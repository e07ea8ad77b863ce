"""What kernels multiply can be written as a graph of torch's operators, and says the same up to rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import clbench
from clbench import Learner, Places
from clbench.data.batches import Batcher
from clbench.deploy.graph import Graph
from clbench.deploy.patterns import patterns
from clbench.quant.kernels import library
from clbench.records.resolving import resolve
from clbench.runs.line import execute

HERE = library.running()

pytestmark = [
    pytest.mark.usefixtures("no_figures"),
    pytest.mark.skipif(not HERE, reason="installed without kernels, or none runs on this processor"),
]


@pytest.fixture
def variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Learner:
    """A learner on weights of two bits that has predicted by kernels."""
    monkeypatch.setenv(library.VARIABLE, f"{HERE[0]}:look-up")
    stream = {"tasks": "2", "train_per_class": 6, "test_per_class": 2}
    spec = resolve({"stream": stream, "strategy": {"name": "simplecil"}})
    record = execute(spec, out=tmp_path / "runs", places=Places(None, tmp_path / "cache"))
    made = clbench.load(record.path).variant("rtn:bits=2,group=64")
    made.predict(pictures(made))
    return made


def pictures(learner: Learner) -> np.ndarray:
    return patterns(8, learner.history.height, learner.history.width)


def test_a_plain_module_says_what_the_portable_way_says(variant: Learner) -> None:
    module = variant.module()
    assert isinstance(module, Graph)
    assert not [node for node in module.traced.graph.nodes if "clbench" in str(node.target)]
    shown = pictures(variant)
    batcher = Batcher(shown, variant.backbone.preprocessing, "none", torch.device("cpu"))
    with torch.no_grad():
        said = module(batcher.test_batch(np.arange(len(shown))))
    by_kernels = variant.predict(shown).scores
    with library.portable():
        by_torch = variant.predict(shown).scores
    torch.testing.assert_close(said, by_torch)
    assert 0 < float((by_kernels - by_torch).abs().max()) < 0.05


@pytest.mark.slow
def test_a_file_of_onnx_is_compared_with_the_portable_way(variant: Learner, tmp_path: Path) -> None:
    report = variant.export_onnx(tmp_path / "a.onnx", preprocessing="inside")
    assert report.max_difference <= report.allowed_difference
