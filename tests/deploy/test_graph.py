"""A learner's prediction as a module: the same scores, from tensors that only predicting needs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench import strategies
from clbench.data.batches import Batcher
from clbench.deploy import graph
from clbench.deploy.asking import TaskError
from clbench.deploy.graph import GraphError
from clbench.deploy.learner import Learner
from clbench.petl.attached import Attached

pytestmark = pytest.mark.usefixtures("can_trace")

Learn = Callable[..., Learner]
QUICK = ("lae",)  # one of each way to predict
# of scores: a traced graph sums in another order, a merged one multiplies in another
CLOSE = 1e-5


def images_of(learner: Learner, pictures: NDArray[np.uint8]) -> Tensor:
    batcher = Batcher(pictures, learner.backbone.preprocessing, "none", learner.device)
    return batcher.test_batch(np.arange(len(pictures)))


def told(learner: Learner) -> dict[str, int]:
    return {"task": 1} if learner.history.scenario == "task" else {}


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    largest = max(1.0, float(theirs[theirs.isfinite()].abs().max()))
    assert torch.equal(ours.isinf(), theirs.isinf())
    assert float((ours - theirs)[theirs.isfinite()].abs().max()) <= CLOSE * largest


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in strategies.names()],
)
def test_module_predicts_what_the_learner_does(name: str, learn: Learn, pictures: NDArray[np.uint8]) -> None:
    learner = learn(name)
    task = told(learner)
    before = learner.predict(pictures, **task).scores
    state = {key: part.state_dict() for key, part in learner.strategy.parts().items()}
    held = {key: {n: t.clone() for n, t in tensors.items()} for key, tensors in state.items()}
    on = [module.enabled for module in learner.backbone.attached]
    module, images = learner.module(**task), images_of(learner, pictures)
    assert_close(module(images), before)
    assert_close(module(images[:1]), before[:1])
    assert_close(module(torch.cat([images, images, images]))[: len(images)], before)  # more than 25
    assert torch.equal(learner.predict(pictures, **task).scores, before)
    assert on == [module.enabled for module in learner.backbone.attached]
    for key, part in learner.strategy.parts().items():
        now = part.state_dict()
        assert all(torch.equal(now[n], t) for n, t in held[key].items()), key


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"ensemble": "evidential"}, {"ensemble": "mean"}])
def test_other_ensembles_are_graphs_too(
    settings: dict[str, object], learn: Learn, pictures: NDArray[np.uint8]
) -> None:
    learner = learn("lae", strategy=settings)
    assert_close(learner.module()(images_of(learner, pictures)), learner.predict(pictures).scores)


@pytest.mark.slow
def test_half_precision_is_that_of_the_learner(learn: Learn, pictures: NDArray[np.uint8]) -> None:
    learner = learn("simplecil")
    run = learner.spec.run.model_copy(update={"precision": "bf16"})
    half = replace(learner, spec=learner.spec.model_copy(update={"run": run}))
    assert_close(half.module()(images_of(half, pictures)), half.predict(pictures).scores)


@pytest.mark.slow
def test_it_can_be_exported_with_any_number_of_images(learn: Learn, pictures: NDArray[np.uint8]) -> None:
    learner = learn("lae")
    module, images = learner.module(), images_of(learner, pictures)
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (images[:3],), dynamic_shapes=({0: batch},))
    for count in (1, 2, 7):
        assert_close(program.module()(images[:count]), module(images[:count]))


@pytest.mark.slow
def test_it_is_copied_loaded_and_moved_like_any_module(
    learn: Learn, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    learner = learn("simplecil")
    module, images = learner.module(), images_of(learner, pictures)
    scores = module(images)
    twin = copy.deepcopy(module)
    for tensor in twin.state_dict().values():
        tensor.zero_()
    assert not torch.equal(twin(images), scores)
    twin.load_state_dict(module.state_dict())
    assert torch.equal(twin.train().eval()(images), scores)
    torch.save(module, tmp_path / "module.pt")
    again = torch.load(tmp_path / "module.pt", weights_only=False)
    assert torch.equal(again(images), scores)
    moved = twin.to("meta")
    assert moved(images.to("meta")).device.type == "meta"
    assert all(tensor.device.type == "meta" for tensor in moved.state_dict().values())


@pytest.mark.slow
def test_it_holds_no_stored_picture(learn: Learn) -> None:
    learner = learn("er")
    stored = learner.strategy.parts()["memory"].state_dict()
    module = learner.module()
    names = [name.rpartition(".")[2] for name in module.state_dict()]
    assert not set(stored) & set(names)
    assert all(tensor.dtype != torch.uint8 for tensor in module.state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "is_merged"),
    [("naive-lora", True), pytest.param("lae-lora", False, marks=pytest.mark.slow)],
)
def test_modules_that_are_always_on_are_merged(
    name: str,
    is_merged: bool,
    learn: Learn,
    pictures: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = learn(name)
    module, images = learner.module(), images_of(learner, pictures)
    monkeypatch.setattr(Attached, "merge", _refuse)
    unmerged = learner.module()
    assert (len(module.state_dict()) < len(unmerged.state_dict())) is is_merged
    assert_close(module(images), unmerged(images))
    assert_close(module(images), learner.predict(pictures).scores)


def _refuse(self: Attached) -> None:
    raise TypeError("not today")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet20", pytest.param("slim-resnet18", marks=pytest.mark.slow)])
def test_convolutions_predict_the_same(backbone: str, learn: Learn, pictures: NDArray[np.uint8]) -> None:
    learner = learn("naive-full", backbone)
    assert_close(learner.module()(images_of(learner, pictures)), learner.predict(pictures).scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["naive", pytest.param("simplecil", marks=pytest.mark.slow)])
def test_a_task_that_is_told_is_part_of_the_module(
    name: str, learn: Learn, pictures: NDArray[np.uint8]
) -> None:
    learner = learn(name, stream={"scenario": "task"})
    with pytest.raises(TaskError, match="task=0 to 1"):
        learner.module()
    for task in (0, 1):
        scores = learner.module(task=task)(images_of(learner, pictures))
        assert_close(scores, learner.predict(pictures, task=task).scores)


def test_other_sizes_are_refused_in_one_line(learn: Learn) -> None:
    module = learn("simplecil").module()
    for shape in ((2, 3, 8, 8), (2, 1, 32, 32), (3, 32, 32)):
        with pytest.raises(GraphError, match="it takes normalised ones") as error:
            module(torch.zeros(shape))
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_what_is_no_graph_is_refused_in_one_line(learn: Learn, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learn("naive")
    kind = type(learner.strategy)
    predict = kind.predict
    reasons = {
        "depends on the number": lambda self, inputs: predict(self, inputs).view(len(inputs.images), -1),
        "as they are stored": lambda self, inputs: inputs.stored.flatten(1).float(),
        "data-dependent": lambda self, inputs: (
            predict(self, inputs) if inputs.images.sum() > 1 else predict(self, inputs) + 1
        ),
        "broken": _broken,
    }
    for reason, other in reasons.items():
        monkeypatch.setattr(kind, "predict", other)
        with pytest.raises(GraphError, match=f"naive is no single graph: .*{reason}") as error:
            graph.graph_of(learner)
        assert "\n" not in str(error.value)


def _broken(self: object, inputs: object) -> Tensor:
    raise RuntimeError("broken\nin two lines")
