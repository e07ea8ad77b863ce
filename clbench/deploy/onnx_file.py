"""Write a learner as an ONNX file, for devices without torch, and compare it with the learner first."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clbench.data.batches import Batcher
from clbench.data.plain_transform import PlainTransform
from clbench.deploy.asking import scores_of
from clbench.deploy.graph import Graph, GraphError, graph_of, reason
from clbench.deploy.learnt import Learnt
from clbench.deploy.onnx_operators import translations
from clbench.deploy.patterns import patterns
from clbench.deploy.quietly import quietly
from clbench.errors import UserError
from clbench.files import make_folder, write_bytes
from clbench.quant.kernels.library import portable
from clbench.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto

Where = Literal["inside", "outside"]

# The highest at which attention is two products and a softmax, which onnxruntime has run since 1.20. From 23
# on it is one operator, which takes a quarter longer at 16 pictures on a CPU, and older runtimes lack it.
OPSET = 22
OPSETS = range(18, 24)  # what torch writes and the last onnxruntime for Python 3.10 reads
TOLERANCE = 1e-4  # of a score, or of the largest score where that is above 1
NUM_COMPARED = 16  # pictures
MOST_BYTES = 2 * 10**9  # of a file: Google's protocol buffers end at 2 GiB
EXAMPLES = 2  # pictures that the graph is traced with


class OnnxError(UserError, ValueError):
    """A learner that cannot be written as an ONNX file, or a file that does not say what the learner says."""


class NoOnnxError(UserError, ImportError):
    """Packages that only this needs, and that are not installed."""


@dataclass(frozen=True)
class OnnxReport:
    """What was written, and how it compares with the learner."""

    file: Path
    preprocessing: Where
    opset: int
    num_bytes: int
    num_compared: int  # pictures
    max_difference: float  # of any of their scores, onnxruntime against torch
    allowed_difference: float
    num_same_class: int  # of the pictures compared


@torch.no_grad()
def export_onnx(
    learnt: Learnt, file: Path, *, preprocessing: Where, task: int | None = None, opset: int = OPSET
) -> OnnxReport:
    """Write a learner as one file of ONNX, if onnxruntime says of it what the learner says.

    There is one input, pictures in any number, and one output, ``scores`` (B, C). The metadata hold the class
    names, the preprocessing, and the id of the run.

    Args:
        learnt: What is written; on the CPU, since its own predictions are compared with.
        file: Where; there must be nothing there yet.
        preprocessing: ``inside``: the input is ``pixels`` (B, H, W, 3), uint8, of the size that the learner
            stores. ``outside``: it is ``images`` (B, 3, S, S), float32, cut, resized and normalised already.
        task: Whose classes are chosen among, after task-incremental learning.
        opset: Of ONNX's operators.
    """
    _check(learnt, file, preprocessing, opset)
    graph = graph_of(learnt, task)
    _refuse_large(graph)
    height, width = learnt.history.height, learnt.history.width
    pixels = patterns(NUM_COMPARED, height, width)
    if preprocessing == "inside":
        whole: nn.Module = nn.Sequential(PlainTransform(learnt.backbone.preprocessing, height, width), graph)
        name, given = "pixels", pixels
    else:
        batcher = Batcher(pixels, learnt.backbone.preprocessing, "none", learnt.device)
        whole, name = graph, "images"
        given = batcher.test_batch(np.arange(len(pixels))).numpy()
    model = _translated(whole.eval(), torch.from_numpy(given[:EXAMPLES]), name, opset)
    _describe(model, learnt, preprocessing, task)
    data = model.SerializeToString()
    with portable():  # as the file says it: kernels round what they multiply with
        scores = scores_of(learnt, pixels, task).numpy()
    empty = OnnxReport(file, preprocessing, opset, len(data), len(given), 0.0, 0.0, 0)
    report = _compared(empty, data, {name: given}, scores)
    make_folder(file.parent)
    write_bytes(file, data)
    return report


def _check(learnt: Learnt, file: Path, preprocessing: str, opset: int) -> None:
    """Refuse what can be refused before anything is computed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise NoOnnxError(f"to write ONNX, {error.name} is needed: pip install 'clbench[onnx]'") from error
    if preprocessing not in get_args(Where):
        raise OnnxError(f"preprocessing={preprocessing!r}: it is inside or outside the file")
    if opset not in OPSETS:
        raise OnnxError(f"opset={opset}: allowed are {OPSETS.start} to {OPSETS.stop - 1}")
    if os.path.lexists(file):
        raise OnnxError(f"{file} is there already; nothing is overwritten")
    if learnt.device.type != "cpu":
        raise OnnxError(
            f"this learner is on {learnt.device}; load it on the CPU, where the file is compared with it"
        )
    if learnt.spec.run.precision == "bf16":
        raise OnnxError(
            "this learner computes in bfloat16 (run.precision=bf16), which onnxruntime does not on a CPU"
        )


def _refuse_large(graph: Graph) -> None:
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    if num_bytes > MOST_BYTES:
        raise OnnxError(f"{num_bytes / 1e9:.1f} GB of weights do not fit into one file of ONNX: 2 GB do")


def _translated(module: nn.Module, example: Tensor, name: str, opset: int) -> ModelProto:
    """Return a module as a model of ONNX that takes any number of pictures."""
    import onnx

    batch = torch.export.Dim("batch", min=1)
    try:
        with quietly():
            program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},), strict=False)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=[name],
                output_names=["scores"],
                custom_translation_table=translations(),
            )
            assert exported is not None
            model: ModelProto = exported.model_proto
            onnx.checker.check_model(model)
    except Exception as error:  # the exporter raises what it likes
        raise GraphError(f"torch's exporter to ONNX cannot write this learner: {reason(error)}") from error
    return model


def _describe(model: ModelProto, learnt: Learnt, preprocessing: Where, task: int | None) -> None:
    """Say whose predictions these are, in place of where on this machine they were traced."""
    import onnx

    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (model.graph, *model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    stored = {"stored_height": learnt.history.height, "stored_width": learnt.history.width}
    told = {**asdict(learnt.backbone.preprocessing), **stored, "is_inside": preprocessing == "inside"}
    about: dict[str, Any] = {
        "class_names": [*learnt.class_names],
        "preprocessing": told,
        "are_probabilities": learnt.strategy.gives_probabilities,
        **({} if task is None else {"task": task}),
    }
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in about.items()}
    onnx.helper.set_model_props(model, {**texts, "run": learnt.origin.id})
    model.producer_name, model.producer_version = "clbench", __version__


def _compared(
    report: OnnxReport, data: bytes, given: dict[str, NDArray[Any]], scores: NDArray[np.float32]
) -> OnnxReport:
    """Return what onnxruntime makes of the pictures, one by one and all at once; OnnxError if it is else."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    ((name, pictures),) = given.items()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        together = session.run(["scores"], {name: pictures})[0]
        alone = [session.run(["scores"], {name: each[None]})[0] for each in pictures]
    except Exception as error:  # onnxruntime's errors have no class of their own
        raise OnnxError(f"onnxruntime does not run this learner: {reason(error)}") from error
    found = np.stack([together, np.concatenate(alone)])
    with np.errstate(invalid="ignore"):  # classes of other tasks are minus infinity in both
        difference = np.where(found == scores, 0, np.abs(found - scores))
    largest = float(np.abs(scores[np.isfinite(scores)]).max(initial=1))
    worst, allowed = float(difference.max()), TOLERANCE * largest
    if not worst <= allowed:  # nor if it is not a number
        raise OnnxError(
            f"onnxruntime's scores differ from the learner's by {worst:.2g}, and {allowed:.2g} is allowed;"
            " nothing was written"
        )
    is_same = (found.argmax(axis=2) == scores.argmax(axis=1)).all(axis=0)
    return replace(
        report, max_difference=worst, allowed_difference=allowed, num_same_class=int(is_same.sum())
    )
