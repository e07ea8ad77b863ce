"""What predictions are accounted for is what was executed, whatever the strategy and the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import clbench
from clbench import strategies
from clbench.data.inputs import Inputs
from clbench.evaluate.flops import Counter
from clbench.options import option_types
from clbench.runs.evaluator import Evaluator
from clbench.runs.prediction_flops import PredictionFlops

pytestmark = pytest.mark.usefixtures("no_figures")

QUICK = {"epochs": 2, "batch_size": 8, "memory_size": 20}
OWN: dict[str, dict[str, Any]] = {"lae": {"frozen_epochs": 1}, "ranpac": {"projection": 64}}
# Where a module multiplies its weights once a batch, a count of one image holds a whole product.
SHARED_BY_A_BATCH = {"inflora": 0.1}
NAMES = [name for name in strategies.names() if not name.startswith("avalanche.")]  # these watch nothing


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The FLOPs of every prediction that is made for its own sake, not to be counted."""
    found: list[int] = []
    predict, account, is_counting = Evaluator.predict, PredictionFlops.account, [False]

    def counted(self: Evaluator, inputs: Inputs) -> Tensor:
        with Counter() as counter:
            scores = predict(self, inputs)
        found.append(0 if is_counting[0] else counter.total)
        return scores

    def accounted(self: PredictionFlops, *arguments: Any) -> None:
        is_counting[0] = True
        account(self, *arguments)
        is_counting[0] = False

    monkeypatch.setattr(Evaluator, "predict", counted)
    monkeypatch.setattr(PredictionFlops, "account", accounted)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_accounted_for_as_they_are_executed(name: str, tmp_path: Path, executed: list[int]):
    allowed = option_types(strategies.get(name))
    stream: dict[str, Any] = {"name": "split-digits", "tasks": "2", "train_per_class": 6, "test_per_class": 3}
    if "task-identity" in strategies.get(name).needs:
        stream["scenario"] = "task"
    options = {key: value for key, value in {**QUICK, **OWN.get(name, {})}.items() if key in allowed}
    spec = clbench.resolve(
        {
            "stream": stream,
            "strategy": {"name": name, **options},
            "backbone": {"name": "vit-micro", "weights": "none"},
            "run": {"eval_batch_size": 16, "eval_every": 3, "eval_images": 2},
        }
    )
    record = clbench.execute(spec, out=tmp_path, places=clbench.Places(None, tmp_path))
    flops = record.read_json("costs.json")["flops"]
    accounted = flops["evaluate"] + flops.get("watch", 0.0)
    assert accounted == pytest.approx(sum(executed), rel=SHARED_BY_A_BATCH.get(name, 1e-9))
