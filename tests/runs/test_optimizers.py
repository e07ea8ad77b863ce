"""What an optimiser has moved is known to have moved, so that nothing computed before is taken for it."""

from __future__ import annotations

import pytest
import torch

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.runs.optimizers import make_optimizer
from clbench.seeds import Seeds
from clbench.strategies import get


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("module", ["adapter", "full"])
def test_a_step_makes_another_key_of_what_it_moves(module: str, optimizer: str):
    strategy = get("naive")(optimizer=optimizer)
    backbone = backbones.create("vit-micro", BackboneOptions(weights="none"))
    strategy.setup(backbone, petl.get(module)(), Seeds(0))
    (attached,) = backbone.attached
    for parameter in attached.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = attached.state_key()
    assert attached.state_key() == before
    make_optimizer(strategy, torch.device("cpu")).step()
    assert attached.state_key() != before
