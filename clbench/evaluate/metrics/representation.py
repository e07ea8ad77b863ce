"""Ask how what a learner makes of a fixed probe set changes from task to task, and what it is good for.

Shapes: n images, D and E widths.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from clbench.evaluate import metric
from clbench.evaluate.means import mean
from clbench.evaluate.representations import Features, Representations
from clbench.evaluate.results import Results

KORNBLITH = "Kornblith et al., ICML 2019, arXiv 1905.00414"
NO_PROBE = "no representations were kept (run.probe_images=0)"
NAN = float("nan")


@metric(
    "cka",
    formula="CKA(X,Y) = ‖YᵀX‖_F² / (‖XᵀX‖_F ‖YᵀY‖_F), X, Y: centred features after the first and last task",
    averaging="over the test images of the probe set together",
    reference=KORNBLITH,
    unknown=f"{NO_PROBE}, or there is one task",
)
def similarity(results: Results) -> float:
    """Compare the representation after the first task with that after the last; 1: equal up to rotation."""
    ends = _ends(results.representations)
    return linear_cka(*ends) if ends else NAN


@metric(
    "cka-debiased",
    formula="the same with the unbiased estimate of each product (Song et al., JMLR 2012): for few images",
    averaging="over the test images of the probe set together",
    reference=f"{KORNBLITH}; Nguyen et al., ICLR 2021, arXiv 2010.15327",
    unknown=f"{NO_PROBE}, there is one task, or there are fewer than four images",
)
def debiased_similarity(results: Results) -> float:
    """Compare the two without the bias upwards that fewer images than dimensions bring."""
    ends = _ends(results.representations)
    return debiased_cka(*ends) if ends else NAN


@metric(
    "representation-drift",
    formula="1/(T-1) Σ_i mean_x ‖φ_i(x)/‖φ_i(x)‖ - φ_{i+1}(x)/‖φ_{i+1}(x)‖‖₂, in [0, 2]",
    averaging="micro over the test images of the probe set, then the mean over tasks; of features that grow,"
    " those that both have (our choice)",
    reference="Caccia et al., ICLR 2022, arXiv 2104.05025",
    unknown=f"{NO_PROBE}, or there is one task",
    higher_is_better=False,
    unit="of 2",
)
def mean_drift(results: Results) -> float:
    """Average how far an image's direction moves while a task is learnt."""
    if results.representations is None:
        return NAN
    return mean(representation_drift(results.representations))


@metric(
    "accuracy-probed",
    formula="accuracy of a logistic regression on φ_T, fitted to the probe set's training images",
    averaging="micro: test images of the probe set weigh the same",
    reference="Davari et al., CVPR 2022, arXiv 2203.13381",
    unknown=NO_PROBE,
)
def probed_accuracy(results: Results) -> float:
    """Tell what the last representation would be good for with a classifier fitted to all tasks at once."""
    probe = results.representations
    if probe is None or not probe.is_test.any() or len(np.unique(probe.labels[~probe.is_test])) < 2:
        return NAN
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, is_test = probe.after[-1], probe.is_test
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last percent of the fit changes nothing
        classifier.fit(features[~is_test], probe.labels[~is_test])
    return float(classifier.score(features[is_test], probe.labels[is_test]))


def linear_cka(x_nD: Features, y_nE: Features) -> float:
    """Return the linear CKA of two representations of n images, in [0, 1]; NaN if one is constant."""
    x_nD, y_nE = x_nD - x_nD.mean(axis=0), y_nE - y_nE.mean(axis=0)
    norm = np.linalg.norm(x_nD.T @ x_nD) * np.linalg.norm(y_nE.T @ y_nE)
    return float(np.linalg.norm(y_nE.T @ x_nD) ** 2 / norm) if norm else NAN


def debiased_cka(x_nD: Features, y_nE: Features) -> float:
    """Return the linear CKA from unbiased estimates of the HSIC; about 0 for unrelated features."""
    k_nn, l_nn = (features @ features.T for features in (x_nD, y_nE))
    norm = _unbiased(k_nn, k_nn) * _unbiased(l_nn, l_nn)
    return float(_unbiased(k_nn, l_nn) / np.sqrt(norm)) if norm > 0 else NAN


def representation_drift(probe: Representations) -> list[float]:
    """Return the mean distance between an image's unit features after each task and the next."""
    drifts = []
    for before, after in pairwise(probe.tested):
        width = min(before.shape[1], after.shape[1])
        step = _unit(after[:, :width]) - _unit(before[:, :width])
        drifts.append(float(np.linalg.norm(step, axis=1).mean()))
    return drifts


def _unit(features: Features) -> Features:
    lengths: Features = np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    return features / lengths


def _ends(probe: Representations | None) -> tuple[Features, Features] | None:
    return (probe.tested[0], probe.tested[-1]) if probe and len(probe.after) > 1 else None


def _unbiased(k_nn: Features, l_nn: Features) -> float:
    """Return the estimate of the HSIC of two Gram matrices whose diagonals are left out."""
    n = len(k_nn)
    if n < 4:
        return NAN
    k_nn, l_nn = (gram - np.diag(gram.diagonal()) for gram in (k_nn, l_nn))
    ones = k_nn.sum() * l_nn.sum() / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (k_nn.sum(axis=0) @ l_nn.sum(axis=0))
    return float(((k_nn * l_nn).sum() + ones - cross) / (n * (n - 3)))
