"""Split errors in two: those that remain when an image's task is told, and those in finding the task."""

from __future__ import annotations

from dataclasses import replace

from clbench.evaluate import metric
from clbench.evaluate.metrics import matrix
from clbench.evaluate.results import Results

TASK_TOLD = "van de Ven and Tolias, 2019, arXiv 1904.07734"


@metric(
    "accuracy-masked",
    formula="1/T Σ_j M[T,j], M: R with scores restricted to the true task's classes",
    averaging="macro: tasks weigh the same",
    reference=TASK_TOLD,
    unknown="a tested task has no accuracy after the last task",
)
def accuracy_masked(results: Results) -> float:
    """Average the accuracies after the last task if each image's task were told."""
    return matrix.accuracy(replace(results, accuracy=results.masked))


@metric(
    "forgetting-masked",
    formula="1/(T-1) Σ_{j<T} (max_{j≤l<T} M[l,j] - M[T,j])",
    averaging="macro over the tasks before the last",
    reference=TASK_TOLD,
    unknown="there is one task, or an old task has no accuracy at the end or none before",
    higher_is_better=False,
)
def forgetting_masked(results: Results) -> float:
    """Average the drop from best to last as ``forgetting`` does, if each image's task were told."""
    return matrix.forgetting(replace(results, accuracy=results.masked))


@metric(
    "task-inference",
    formula="1/T Σ_j P(predicted class belongs to task j | image of task j), after task T",
    averaging="macro: tasks weigh the same",
    reference="Wang et al., NeurIPS 2023, arXiv 2310.07234",
    unknown="a tested task has no accuracy after the last task",
)
def task_inference(results: Results) -> float:
    """Average the share of images given to some class of their own task; NaN if it was not counted."""
    if results.task_found is None:
        return float("nan")
    return matrix.accuracy(replace(results, accuracy=results.task_found))
