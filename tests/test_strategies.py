"""Every strategy keeps its contract, with every module that it can take."""

from __future__ import annotations

import pytest

from clbench import strategies
from clbench.testing import check_strategy

QUICK = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01}


@pytest.mark.parametrize("name", strategies.names())
def test_strategy_keeps_its_contract(name: str):
    options = QUICK | ({"frozen_epochs": 1} if name == "lae" else {})
    check_strategy(lambda: strategies.get(name)(**options))


@pytest.mark.slow
def test_lae_keeps_its_contract_with_a_module_and_a_head_of_one_bit():
    options = QUICK | {"frozen_epochs": 1, "head_bits": 1}
    check_strategy(lambda: strategies.get("lae")(**options), "bi-adapter")
