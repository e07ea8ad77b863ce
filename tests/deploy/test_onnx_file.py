"""A learner as an ONNX file: onnxruntime says of it what the learner says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clbench.data.batches import Batcher
from clbench.deploy import onnx_file
from clbench.deploy.graph import GraphError
from clbench.deploy.learner import Learner
from clbench.deploy.onnx_file import OnnxError
from clbench.deploy.patterns import patterns

pytestmark = pytest.mark.usefixtures("can_trace")

Learn = Callable[..., Learner]
LEARNERS = [  # each predicts in a way of its own
    ("simplecil", "vit-micro"),
    pytest.param("lae", "vit-micro", marks=pytest.mark.slow),
    pytest.param("naive-lora", "vit-micro", marks=pytest.mark.slow),
    pytest.param("er", "vit-micro", marks=pytest.mark.slow),
    pytest.param("ranpac", "vit-micro", marks=pytest.mark.slow),
    pytest.param("l2p", "vit-micro", marks=pytest.mark.slow),
    pytest.param("naive-full", "resnet20", marks=pytest.mark.slow),
    pytest.param("naive-full", "slim-resnet18", marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def has_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


def run(file: Path, given: NDArray[Any]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (first,) = session.get_inputs()
    scores: NDArray[np.float32] = session.run(["scores"], {first.name: given})[0]
    return scores


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone"), LEARNERS)
def test_pixels_in_give_the_scores_of_the_learner(
    name: str, backbone: str, learn: Learn, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    learner = learn(name, backbone)
    report = learner.export_onnx(tmp_path / "new" / "learner.onnx", preprocessing="inside")
    said = learner.predict(pictures)
    for given in (pictures, pictures[:1]):
        scores = run(report.file, given)
        assert np.abs(scores - said.scores.numpy()[: len(given)]).max() <= report.allowed_difference
        assert (scores.argmax(1) == said.classes.numpy()[: len(given)]).all()
    assert report.num_bytes == report.file.stat().st_size
    assert report.num_same_class == report.num_compared == 16
    assert report.max_difference <= report.allowed_difference
    assert [file.name for file in report.file.parent.iterdir()] == ["learner.onnx"]  # no data beside it


@pytest.mark.slow
@pytest.mark.parametrize(
    "opset", [22, pytest.param(18, marks=pytest.mark.slow), pytest.param(23, marks=pytest.mark.slow)]
)
def test_images_in_give_them_too(
    opset: int, learn: Learn, pictures: NDArray[np.uint8], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnx

    learner = learn("simplecil")
    report = learner.export_onnx(str(tmp_path / "a.onnx"), preprocessing="outside", opset=opset)
    assert capfd.readouterr() == ("", "")  # torch's exporter talks
    batcher = Batcher(pictures, learner.backbone.preprocessing, "none", learner.device)
    images = batcher.test_batch(np.arange(len(pictures))).numpy()
    assert np.abs(run(report.file, images) - learner.predict(pictures).scores.numpy()).max() <= 1e-4
    model = onnx.load(report.file)
    assert model.opset_import[0].version == opset
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(told["class_names"]) == ["red", "green", "blue", "grey"]
    assert json.loads(told["preprocessing"])["image_size"] == images.shape[-1]
    assert json.loads(told["preprocessing"])["is_inside"] is False
    assert told["run"] == learner.spec.id
    # where it was traced is nobody's business
    assert str(Path(onnx_file.__file__).parents[2]).encode() not in report.file.read_bytes()


@pytest.mark.slow
def test_classes_of_other_tasks_are_left_out(
    learn: Learn, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    learner = learn("simplecil", stream={"scenario": "task"})
    report = learner.export_onnx(tmp_path / "a.onnx", preprocessing="inside", task=1)
    scores = run(report.file, pictures)
    assert np.isneginf(scores[:, :2]).all()
    assert np.isfinite(scores[:, 2:]).all()


def test_nothing_is_written_if_the_scores_differ(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import TensorProto, helper

    learner = learn("simplecil")
    size = learner.backbone.preprocessing.image_size
    zeros = helper.make_tensor("zeros", TensorProto.FLOAT, (3 * size * size, 4), [0.0] * 12 * size * size)
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ("batch", 3, size, size))
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("batch", 4))
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "zeros"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "zero", [images], [scores], [zeros])
    opset = helper.make_opsetid("", onnx_file.OPSET)
    zero = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    monkeypatch.setattr(onnx_file, "_translated", lambda *_: zero)
    with pytest.raises(OnnxError, match="differ from the learner's by") as error:
        learner.export_onnx(tmp_path / "a.onnx", preprocessing="outside")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_is_refused_in_one_line(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, file = learn("simplecil"), tmp_path / "a.onnx"
    with pytest.raises(OnnxError, match="it is inside or outside"):
        learner.export_onnx(file, preprocessing="beside")  # type: ignore[arg-type]
    with pytest.raises(OnnxError, match="allowed are 18 to 23"):
        learner.export_onnx(file, preprocessing="inside", opset=7)
    half = learner.spec.model_copy(update={"run": learner.spec.run.model_copy(update={"precision": "bf16"})})
    with pytest.raises(OnnxError, match="bfloat16"):
        replace(learner, spec=half).export_onnx(file, preprocessing="inside")
    monkeypatch.setattr(onnx_file, "MOST_BYTES", 1000)
    with pytest.raises(OnnxError, match="do not fit into one file"):
        learner.export_onnx(file, preprocessing="inside")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(onnx_file.NoOnnxError, match=r"pip install 'clbench\[onnx\]'"):
        learner.export_onnx(file, preprocessing="inside")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    file.write_text("mine")
    with pytest.raises(OnnxError, match="nothing is overwritten"):
        learner.export_onnx(file, preprocessing="inside")
    assert file.read_text() == "mine"


@pytest.mark.slow
def test_what_onnx_has_no_operator_for_is_refused_in_one_line(learn: Learn, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="solve_triangular") as error:
        learn("fecam").export_onnx(tmp_path / "a.onnx", preprocessing="outside")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_exporter_that_fails_is_quoted_in_one_line(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand much advice")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(GraphError, match=r"cannot write this learner: no such operator$"):
        learn("simplecil").export_onnx(tmp_path / "a.onnx", preprocessing="outside")
    assert not list(tmp_path.iterdir())


def test_patterns_are_many_sided_and_always_the_same() -> None:
    drawn = patterns(16, 20, 32)
    assert drawn.shape == (16, 20, 32, 3)
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn, patterns(16, 20, 32))
    assert len(np.unique(drawn.reshape(16, -1), axis=0)) == 16
    assert drawn.min() == 0
    assert drawn.max() == 255
