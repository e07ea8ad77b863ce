"""Hold the list of what is public: whatever is not here may move without notice."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PUBLIC = {
    "clbench": [
        "Learner",
        "Petl",
        "Places",
        "Predictions",
        "Progress",
        "Record",
        "RunSpec",
        "Strategy",
        "Stream",
        "UserError",
        "execute",
        "load",
        "load_runs",
        "resolve",
        "resume",
    ],
    "clbench.backbones": ["BackboneOptions", "create", "get", "names", "register"],
    "clbench.evaluate": [
        "METRICS",
        "Metric",
        "Results",
        "avalanche_plugin",
        "compute",
        "find",
        "find_all",
        "metric",
        "names",
    ],
    "clbench.petl": ["Petl", "attach", "get", "load", "names", "plain_state_dict", "register"],
    "clbench.strategies": ["Strategy", "Task", "combinations", "get", "names", "register", "split"],
    "clbench.streams": [
        "DataNotFoundError",
        "Places",
        "Source",
        "Stream",
        "Task",
        "TaskStream",
        "get",
        "names",
        "register",
        "split",
    ],
}
HEAVY = {"torch", "timm", "torchvision", "avalanche", "pandas", "matplotlib", "sklearn", "pyarrow"}


# clbench.testing imports torch
CHECKS = ["check_compress", "check_metric", "check_petl", "check_quant", "check_strategy", "check_stream"]


def test_the_checks_are_listed() -> None:
    assert sorted(importlib.import_module("clbench.testing").__all__) == CHECKS


@pytest.mark.parametrize("module", PUBLIC)
def test_a_module_lists_exactly_its_public_names(module: str) -> None:
    assert sorted(importlib.import_module(module).__all__) == PUBLIC[module]


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in PUBLIC for name in PUBLIC[module]])
def test_a_public_name_is_there(module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name) is not None


def test_importing_the_public_modules_imports_nothing_heavy() -> None:
    code = f"import sys, {', '.join(PUBLIC)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not HEAVY & set(loaded.split())
