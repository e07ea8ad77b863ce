"""Ask whether confidence means what it says.

torchmetrics has this error too, but importing it takes longer than many a report; these are five lines of
numpy, and a test holds the two equal.
"""

from __future__ import annotations

import numpy as np

from clbench.evaluate import metric
from clbench.evaluate.results import Results

NUM_BINS = 15  # of equal width, each open on the left: (0, 1/15], (1/15, 2/15], ...


@metric(
    "ece",
    formula="Σ_b |B_b|/n · |acc(B_b) - conf(B_b)|, 15 equal-width bins of confidence",
    averaging="micro: test images of the last evaluation weigh the same",
    reference="Guo et al., ICML 2017, arXiv 1706.04599",
    higher_is_better=False,
)
def expected_calibration_error(results: Results) -> float:
    """Average the gap between confidence and accuracy over bins of confidence.

    Images whose confidence is NaN are left out; NaN if none remains.
    """
    known = ~np.isnan(results.confidence)
    confidence, correct = results.confidence[known], results.correct[known]
    if not confidence.size:
        return float("nan")
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence)  # |B_b| (acc - conf) of each bin
    return float(np.abs(gaps).sum() / confidence.size)
