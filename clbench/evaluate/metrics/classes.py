"""Follow each class instead of each task: in a stream without boundaries a class comes back in many tasks."""

from __future__ import annotations

import numpy as np

from clbench.evaluate import metric
from clbench.evaluate.results import Results


@metric(
    "forgetting-classes",
    formula="F_last = 1/|C| Σ_{c in C} (max_{i<T} r[i,c] - r[T,c]), r[i,c]: accuracy on class c after task i",
    averaging="macro over the classes tested before the last task",
    reference="Moon et al. (Si-Blurry), ICCV 2023, arXiv 2308.09303",
    higher_is_better=False,
)
def forgetting_of_classes(results: Results) -> float:
    """Average the drop from a class's best earlier accuracy to its last; NaN for one task."""
    if results.class_accuracy is None:
        return float("nan")
    earlier, last = results.class_accuracy[:-1], results.class_accuracy[-1]
    best = np.fmax.reduce(earlier, axis=0, initial=np.nan)  # NaN only where every step is
    drops = (best - last)[~np.isnan(best)]
    return float(drops.mean()) if drops.size else float("nan")
