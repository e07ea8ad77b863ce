"""Compare how quick two forms of a learner predict, in turns, in the same minute."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from clbench.data.inputs import Inputs
from clbench.evaluate.timing import ratio_of_times
from clbench.runs.evaluator import Evaluator

ROUNDS = 7  # of which the median counts
BATCH = 64  # images, at most, of which the throughput is measured


def speed(form: Evaluator, reference: Evaluator, rows: NDArray[np.int64], task: int) -> dict[str, float]:
    """Return the times of a form by those of the learner itself: of one image, and of many at once."""
    ratios = {}
    for name, number in (("latency_ratio", 1), ("batch_time_ratio", min(BATCH, len(rows)))):
        inputs = form.inputs(rows[:number], task).uncached()
        ratios[name] = ratio_of_times(
            partial(_ask, form, inputs), partial(_ask, reference, inputs), rounds=ROUNDS
        )
    return {"latency_ratio": ratios["latency_ratio"], "throughput_ratio": 1 / ratios["batch_time_ratio"]}


def _ask(evaluator: Evaluator, inputs: Inputs) -> float:
    """Predict, and wait for the result."""
    with torch.inference_mode():
        return float(evaluator.predict(inputs).sum())
