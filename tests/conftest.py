"""Share fixtures between the tests: what several folders need, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from clbench.backbones.backbone import Backbone

# Before torch is imported: threads would mostly wait for each other on tensors so small (242 s, not 78 s).
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data and weights; tests that ask for it carry ``@pytest.mark.data``."""
    named = os.environ.get("CLBENCH_TEST_DATA")
    if not named:
        pytest.skip("needs real data: set CLBENCH_TEST_DATA to a folder that holds cifar100.npz")
    folder = Path(named).absolute()
    if not (folder / "cifar100.npz").is_file():
        pytest.skip(f"needs real data: CLBENCH_TEST_DATA={named} holds no cifar100.npz")
    return folder


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the source tree that these tests lie in."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def unallocated() -> Callable[[str], Backbone]:
    """A function that opens a network of timm at full size, without values: to count what is attached."""
    import timm
    import torch

    from clbench.backbones.backbone import Preprocessing
    from clbench.backbones.creation import open_model

    def open_without_values(name: str) -> Backbone:
        # what timm would draw into nothing takes six times as long as all the rest
        with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
            patch.setattr("timm.layers.weight_init._trunc_normal_", lambda tensor, *_: tensor, raising=False)
            model = timm.create_model(name, num_classes=0)
        unit = (1.0, 1.0, 1.0)
        return open_model(name, model, Preprocessing(224, unit, unit, 1.0, "bilinear"), source="", digest="")

    return open_without_values


@pytest.fixture(autouse=True)
def same_global_numbers() -> None:
    """Seed what the networks of others draw their weights from: tests run in another order each time."""
    import torch

    torch.manual_seed(0)
