"""List the pictures of a comparison: what draws each, the name of its file, and how a page shows it.

Files are drawn of all groups of a stream, or of each group; a page chooses among the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from clbench.report import pictures
from clbench.report.groups import Group
from clbench.report.pictures import Picture

NUM_BEST = 12  # groups whose lines or panels can still be told apart
FIRST, BEST, ALL = 1, NUM_BEST, None  # how many groups a page draws, the most accurate first

Draw = Callable[[Sequence[Group]], Picture]  # raises NoPictureError where the records have no data for it


@dataclass(frozen=True)
class Plan:
    """A picture that files and a page may hold."""

    stem: str  # of its file
    title: str  # its heading on a page; empty: a page does not show it
    num_groups: int | None  # FIRST: it is a picture of one group
    draw: Draw
    reading: str = ""  # how it is read, on a page
    is_also_of_run: bool = False  # though of several groups, it also lies in the folder of a single run

    @property
    def is_of_one(self) -> bool:
        """Whether it is a picture of one group."""
        return self.num_groups == FIRST

    @property
    def is_of_run(self) -> bool:
        """Whether a run's own folder holds it."""
        return self.is_of_one or self.is_also_of_run


def _of_one(draw: Callable[[Group], Picture]) -> Draw:
    return lambda groups: draw(groups[0])


PLANS = (  # in the order of a page
    Plan(
        "accuracy-curve",
        "Accuracy",
        BEST,
        pictures.accuracy_curve,
        "Mean accuracy on the tasks seen so far. Higher is better; a line that falls slowly forgets little. "
        "A dotted level is a learner that was tested only at the end.",
        is_also_of_run=True,
    ),
    Plan(
        "forgetting-curve",
        "Forgetting",
        BEST,
        pictures.forgetting_curve,
        "Mean drop of the earlier tasks from their best accuracy. Lower is better; 0 means nothing is lost.",
    ),
    Plan(
        "accuracy-matrices",
        "Accuracy after each task on each task",
        BEST,
        pictures.matrices,
        "A row is a moment, a column a task. A column that darkens downwards is a task being forgotten; "
        "the diagonal is what was learnt.",
    ),
    Plan("accuracy-matrix", "", FIRST, _of_one(pictures.accuracy_matrix)),
    Plan(
        "pareto-training",
        "Accuracy and training operations",
        ALL,
        partial(pictures.pareto, cost="flops.training"),
        "Up and to the left is better. Nobody is both cheaper and more accurate than a group on the line.",
    ),
    Plan(
        "pareto-stored",
        "Accuracy and stored bytes",
        ALL,
        partial(pictures.pareto, cost="stored_bytes.total"),
        "What has to be kept between tasks, the backbone's own weights aside. Up and to the left is better.",
    ),
    Plan(
        "pareto-deployed",
        "Accuracy and bytes to deploy",
        ALL,
        pictures.pareto_deployed,
        "The backbone with all that has to be added to it to predict, packed. Up and to the left is better.",
    ),
    Plan(
        "equal-bytes",
        "Accuracy at equal bytes",
        BEST,
        pictures.equal_bytes,
        "Each learner under several budgets of what it may keep between tasks. At one budget, higher is "
        "better.",
    ),
    Plan(
        "stored-bytes",
        "What is stored",
        BEST,
        pictures.stored_bytes,
        "The bytes kept between tasks, by what they are kept for. Shorter is better.",
    ),
    Plan(
        "stability-gap",
        "Stability gap",
        BEST,
        pictures.stability_gap,
        "How the accuracy on a task changes once the next ones are learnt, in percentage points. A dip that "
        "is made up for later is one that tests after tasks would not see.",
    ),
    Plan(
        "anytime",
        "While it learnt",
        FIRST,
        _of_one(pictures.anytime),
        "Accuracy on each task seen, over training steps; dashed lines end tasks.",
    ),
    Plan(
        "calibration",
        "Calibration",
        BEST,
        pictures.calibration,
        "How often predictions of a confidence are right. On the diagonal confidence can be trusted; "
        "below it the learner is too sure.",
    ),
    Plan(
        "confusion",
        "Confusion",
        FIRST,
        _of_one(pictures.confusion),
        "A row is a true class, a column the class that was predicted, in the order they were learnt. "
        "Colour right of the diagonal blocks is a preference for new tasks.",
    ),
    Plan(
        "drift",
        "Drift",
        FIRST,
        _of_one(pictures.drift),
        "How far the features of the same images moved with each task. Flat is stable.",
    ),
)
