"""Every strategy keeps its contract."""

from __future__ import annotations

import pytest

from clbench import strategies
from clbench.options import option_types
from clbench.testing import check_strategy

QUICK = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "memory_size": 20}
OWN = {
    "avalanche.er-aml": {"memory_size": 40},  # a batch of each class
    "avalanche.mer": {"num_rounds": 1},
    "lae": {"frozen_epochs": 1},
    "ranpac": {"projection": 64},
    "scr": {"replay_batch": 0, "temperature": 0.5},  # a loss that does not grow with the memory
}  # what else makes two epochs on a few images enough
# One way into avalanche, and one of each family, are enough for the quick tests; a new file is among them.
TWINS = {
    *(
        "agem",
        "aper",
        "coda-prompt",
        "der",
        "dualprompt",
        "ease",
        "er-ace",
        "ewc",
        "fecam",
        "gdumb",
        "generative",
    ),
    *("joint", "mas", "mir", "scr", "slca", "slda", "taer"),
}


def is_slow(name: str) -> bool:
    return name in TWINS or (name.startswith("avalanche.") and name != "avalanche.naive")


NAMES = [pytest.param(name, marks=[pytest.mark.slow] if is_slow(name) else []) for name in strategies.names()]


def options_of(name: str) -> dict[str, object]:
    allowed = option_types(strategies.get(name))
    return {key: value for key, value in {**QUICK, **OWN.get(name, {})}.items() if key in allowed}


@pytest.mark.parametrize("name", NAMES)
def test_strategy_keeps_its_contract(name: str):
    check_strategy(lambda: strategies.get(name)(**options_of(name)))


@pytest.mark.slow
def test_lae_keeps_its_contract_with_a_module_and_a_head_of_one_bit():
    options = options_of("lae") | {"head_bits": 1}
    check_strategy(lambda: strategies.get("lae")(**options), "bi-adapter")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"ensemble": "mean"}, {"ensemble": "evidential", "evidential_loss": True}]
)
def test_lae_keeps_its_contract_with_other_ensembles(options: dict[str, object]):
    check_strategy(lambda: strategies.get("lae")(**options_of("lae"), **options))
