"""Every strategy keeps its contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clbench import strategies
from clbench.testing import check_strategy

Options = Callable[[str], dict[str, object]]


def test_strategy_keeps_its_contract(strategy_name: str, quick_options: Options):
    check_strategy(lambda: strategies.get(strategy_name)(**quick_options(strategy_name)))


@pytest.mark.slow
def test_lae_keeps_its_contract_with_a_module_and_a_head_of_one_bit(quick_options: Options):
    options = quick_options("lae") | {"head_bits": 1}
    check_strategy(lambda: strategies.get("lae")(**options), "bi-adapter")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"ensemble": "mean"}, {"ensemble": "evidential", "evidential_loss": True}]
)
def test_lae_keeps_its_contract_with_other_ensembles(options: dict[str, object], quick_options: Options):
    check_strategy(lambda: strategies.get("lae")(**quick_options("lae"), **options))
