"""Show that LAE learns with every module, and every strategy with every kind of module."""

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
from clbench.options import option_types
from clbench.petl.attached import Attached
from clbench.runs.loop import Loop
from clbench.seeds import Seeds
from clbench.testing.generated import generated_stream

# LAE meets every module, the others one of each kind: a branch beside a layer, another weight of it, more
# keys and values, scales and shifts, few bits, the whole backbone, nothing.
KINDS = ["adapter", "lora-qv", "prefix", "ssf", "bi-adapter", "full", "linear"]
ONLY = {"mdpd": ["lst"], "incubate": ["linear"]}  # those that refuse every other module
QUICK = {"naive", "er"}  # strategies of different structure
CHOSEN = {  # what fits a few images of 16 pixels
    "lae": {"frozen_epochs": 1},
    "inflora": {"rank": 2},
    "ranpac": {"projection": 64},
}


def pairs() -> list[object]:
    """Every pair that is to learn; all of peft go one way through LAE, so one of them is quick enough."""
    found = []
    for module in petl.names():
        is_slow = module not in (*KINDS, "peft.lora")
        found.append(pytest.param("lae", module, marks=[pytest.mark.slow] if is_slow else []))
    for name in strategies.names():
        if name == "lae" or name.startswith("avalanche."):
            continue
        for module in ONLY.get(name, KINDS):
            found.append(pytest.param(name, module, marks=[] if name in QUICK else [pytest.mark.slow]))
    return found


def tiny() -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = timm.models.VisionTransformer
        model = vit(16, 8, embed_dim=64, depth=2, num_heads=2, num_classes=0)
    images = Preprocessing(16, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")
    return open_model("tiny", model, images, source="", digest="")


def state_of(part: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in part.state_dict().items()}


@pytest.mark.parametrize(("strategy", "module"), pairs())
def test_strategies_learn_with_modules(strategy: str, module: str) -> None:
    backbone, seeds = tiny(), Seeds(0)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    options = {"epochs": 2, "batch_size": 12, "learning_rate": 0.001, "memory_size": 12}
    allowed = option_types(strategies.get(strategy))
    chosen = {**options, **CHOSEN.get(strategy, {})}
    learner = strategies.get(strategy)(**{name: chosen[name] for name in chosen if name in allowed})
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
        log=lambda task, columns: logs.append(columns) or [],
    ).run()
    assert len(logs) == 2
    assert len(logs[-1]["row"]) == sum(len(task.test) for task in stream.tasks)
    assert np.isfinite(logs[-1]["label_score"]).all() == learner.gives_probabilities
    parts = learner.parts()
    assert stored_bytes(parts)["total"] > 0
    for kind, state in at_start.items() if learner.num_epochs(0) else ():
        learnt = state_of(parts[kind])
        assert not state or any(not torch.equal(learnt[name], value) for name, value in state.items())
    for part in parts.values():
        if isinstance(part, Attached):
            part.detach()
    after = backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
