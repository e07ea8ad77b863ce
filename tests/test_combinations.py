"""Show that every strategy learns with every module."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from clbench import petl, strategies
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.data.batches import Batcher
from clbench.evaluate.costs import stored_bytes
from clbench.evaluate.meter import Meter
from clbench.loop import Loop
from clbench.progress import Progress
from clbench.seeds import Seeds
from clbench.trial import generated_stream

# All of peft go one way through the strategies, so that one of them is enough for the quick tests.
QUICK = [name for name in petl.names() if not name.startswith("peft.") or name == "peft.lora"]
MODULES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in petl.names()]


def tiny() -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = timm.models.VisionTransformer
        model = vit(16, 8, embed_dim=64, depth=2, num_heads=2, num_classes=0)
    images = Preprocessing(16, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")
    return open_model("tiny", model, images, source="", digest="")


def state_of(part: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in part.state_dict().items()}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("strategy", strategies.names())
def test_every_strategy_learns_with_every_module(strategy: str, module: str) -> None:
    backbone, seeds = tiny(), Seeds(0)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    learner = strategies.get(f"{strategy}-{module}")(epochs=2, batch_size=12, learning_rate=0.001)
    stream = generated_stream(scenario="task" if "task-identity" in learner.needs else "class")
    learner.setup(backbone, petl.get(module)(), seeds)
    at_start = {kind: state_of(part) for kind, part in learner.parts().items() if "petl" in kind}
    logs = []
    batcher = Batcher(stream.tasks[0].train.images, backbone.preprocessing, "none", torch.device("cpu"))
    Loop(
        learner,
        stream,
        batcher,
        seeds,
        Meter(torch.device("cpu")),
        Progress(),
        save=lambda state: None,
        log=lambda task, columns: logs.append(columns) or [],
    ).run()
    assert len(logs) == 2
    assert len(logs[-1]["row"]) == sum(len(task.test) for task in stream.tasks)
    assert np.isfinite(logs[-1]["label_score"]).all()
    parts = learner.parts()
    assert stored_bytes(parts)["total"] > 0
    for kind, state in at_start.items():
        learnt = state_of(parts[kind])
        assert not state or any(not torch.equal(learnt[name], value) for name, value in state.items())
    for kind, part in parts.items():
        if "petl" in kind:
            part.detach()
    after = backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
