"""Choose the options of the next trial: every point in turn, at random, or where earlier ones scored well.

What is chosen is a function of the sweep's seed, the trial's number and what the trials before it are known
to have scored, so a sweep that was killed goes on as it would have.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clbench.errors import UserError
from clbench.options import Value
from clbench.scale.space import Axis, Range, Space
from clbench.scale.trials import Trial
from clbench.seeds import Seeds

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

MOST_DRAWS = 100  # for a point that no trial has; then the points are gone through


class MissingExtraError(UserError, ImportError):
    """A library that is asked for and not installed."""


@dataclass(frozen=True)
class Search(ABC):
    """Chooses points of a space."""

    space: Space
    seed: int = 0
    higher_is_better: bool = True

    def next(self, trials: Sequence[Trial]) -> dict[str, Value] | None:
        """Return the options of the trial that comes behind these; None where every point has one."""
        taken = [trial.options for trial in trials]
        if self.space.num_points is not None and len(taken) >= self.space.num_points:
            return None
        for attempt in range(MOST_DRAWS):
            options = self.draw(trials, attempt)
            if options not in taken:
                return options
        return next((point for point in self.space.points() if point not in taken), None)

    @abstractmethod
    def draw(self, trials: Sequence[Trial], attempt: int) -> dict[str, Value]:
        """Return some options; another ``attempt`` may return others."""


class Grid(Search):
    """Every point, the last option changing first."""

    def draw(self, trials: Sequence[Trial], attempt: int) -> dict[str, Value]:
        """Return the point of the trial's number."""
        return next(itertools.islice(self.space.points(), len(trials) + attempt, None))


class Random(Search):
    """Points at random, each option by itself."""

    def draw(self, trials: Sequence[Trial], attempt: int) -> dict[str, Value]:
        """Return a point that depends on nothing but the seed, the number and the attempt."""
        return self.space.draw(Seeds(self.seed).numpy("sweep", len(trials), attempt))


class Optuna(Search):
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), told of every trial before."""

    def draw(self, trials: Sequence[Trial], attempt: int) -> dict[str, Value]:
        """Return what a sampler with a seed of this number proposes after the trials before."""
        optuna = imported_optuna()
        sampler = optuna.samplers.TPESampler(
            seed=Seeds(self.seed).derive("sweep", len(trials), attempt) % 2**32, multivariate=False
        )
        direction = "maximize" if self.higher_is_better else "minimize"
        study = optuna.create_study(sampler=sampler, direction=direction)
        study.add_trials([told for trial in trials if (told := _told(trial, self.space))])
        asked = study.ask(_distributions(self.space)).params
        return {
            axis.name: asked[axis.name] if isinstance(axis, Range) else axis.ends[asked[axis.name]]
            for axis in self.space.axes
        }


def imported_optuna() -> Any:
    """Return the module, which is silent from then on; MissingExtraError says how to install it."""
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError(
            'search = "optuna" needs optuna: pip install "clbench[ray]" (or: pip install optuna)'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


SEARCHES: dict[str, type[Search]] = {"grid": Grid, "random": Random, "optuna": Optuna}


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    return {axis.name: _distribution(axis) for axis in space.axes}


def _distribution(axis: Axis) -> BaseDistribution:
    from optuna import distributions

    if not isinstance(axis, Range):  # by place: to Optuna, True and 1 are the same choice
        return distributions.CategoricalDistribution(list(range(len(axis.ends))))
    if axis.is_whole:
        return distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def _told(trial: Trial, space: Space) -> FrozenTrial | None:
    """Return a trial as Optuna keeps it; None where nothing is known of it that it could learn from."""
    import optuna

    states = optuna.trial.TrialState
    by_task = next(iter(trial.by_task.values()), {})
    if trial.state == "finished" and not math.isnan(trial.score):
        state, value = states.COMPLETE, trial.score
    elif trial.state == "stopped" and by_task:
        state, value = states.PRUNED, None
    else:
        return None
    values = {axis.name: (axis, trial.options[axis.name]) for axis in space.axes}
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params={
            name: value if isinstance(axis, Range) else axis.ends.index(value)
            for name, (axis, value) in values.items()
        },
        distributions=_distributions(space),
        intermediate_values={task: each for task, each in by_task.items() if not math.isnan(each)},
    )
