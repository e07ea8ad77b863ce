"""Register the metrics of a run: pure functions of its results, each with its formula and its rules.

A family of metrics is one file in ``clbench.evaluate.metrics``, found because it is there; ``find`` opens the
two doors for metrics of others. Nothing here imports torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from clbench.evaluate import metrics
from clbench.evaluate.catalogue import METRICS, Metric, compute, find, find_all, metric, names
from clbench.evaluate.results import Results

if TYPE_CHECKING:
    from clbench.avalanche.evaluation import Evaluation


def avalanche_plugin(*others: Any, loggers: Any = None, outputs: str = "logits") -> Evaluation:
    """Return an ``EvaluationPlugin`` for Avalanche's strategies: their ``eval()`` then returns our metrics.

    ``strategy = Naive(..., evaluator=avalanche_plugin())``; metrics on the test stream are called
    ``clbench/forgetting``, and ``results()`` of the plug-in returns what they are computed from. ``others``
    are metrics of Avalanche, ``loggers`` by default Avalanche's own. ``outputs`` is what the model gives:
    "logits", "probabilities", or "scores" that are neither, which have no calibration.
    """
    from clbench.avalanche.quietly import import_avalanche

    import_avalanche()
    from clbench.avalanche.evaluation import Evaluation

    return Evaluation(*others, loggers=loggers, outputs=outputs)


for _family in pkgutil.iter_modules(metrics.__path__, f"{metrics.__name__}."):
    importlib.import_module(_family.name)

__all__ = [
    "METRICS",
    "Metric",
    "Results",
    "avalanche_plugin",
    "compute",
    "find",
    "find_all",
    "metric",
    "names",
]
