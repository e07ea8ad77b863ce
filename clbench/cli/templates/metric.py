"""Ask how unequal the tasks are at the end: this line stands above the file's metrics in clbench list."""

from __future__ import annotations

from clbench.evaluate import Results, metric


# The decorator says how the number comes about: clbench show prints it.
@metric(
    "example",
    formula="max_j R[T,j] - min_j R[T,j]",  # R[i,j]: accuracy on task j after task i; T tasks
    averaging="none: the two extremes",
    reference="of our own",
    unknown="a task has no accuracy after the last task",
    higher_is_better=False,
    unit="",  # empty: a share, shown in percent
)
def example(results: Results) -> float:
    """Give the distance between the best and the worst task after the last.

    A metric is a pure function: it changes nothing of the results, and the same results give the same value.
    What is not known is NaN, never 0. ``clbench.evaluate.Results`` says what there is to compute with.
    """
    last = results.accuracy[-1, results.is_tested]  # NaN where nothing was measured
    return float(last.max() - last.min())
