"""Check that a strategy keeps its contract; ``clbench.testing.check_strategy`` is this."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from clbench.backbones.backbone import Backbone
from clbench.options import refuse_odd_class
from clbench.outside.mistakes import PluginError
from clbench.strategies import Strategy
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.promises import Told, nobody
from clbench.testing.trial import Trial


def check_strategy(
    make: Callable[[], Strategy],
    module: str | None = None,
    backbone: Callable[[], Backbone] = small_backbone,
    *,
    told: Told = nobody,
) -> None:
    """Run a strategy over two generated tasks and check its contract.

    ``make`` returns a new strategy, for instance ``lambda: LAE(epochs=2)``; it should train for a few steps.
    Without a ``module`` it gets the one that ``clbench run`` would take. ``told`` hears of each promise that
    is kept. AssertionError, or PluginError where a hook fails, says in a line what was broken: it is a
    dataclass whose options and hooks can be used; ``parts()`` holds all that is trained; what a hook is given
    stays as it was; the loss is finite and falls; the frozen backbone stays bit for bit what it was; scores
    are finite, and probabilities where declared; a prediction does not depend on its batch mates; a memory
    never holds more than it may; the bytes reported are the bytes held; the same seed gives the same numbers
    whatever the global generators hold; a stopped and resumed run ends bit-equal; with everything computed
    each time the predictions are the same.
    """
    strategy = make()
    refuse_odd_class(type(strategy))
    told("it is a dataclass, whose options can be set and whose hooks can be called")
    stream = generated_stream(scenario="task" if "task-identity" in strategy.needs else "class")

    def trial(chance: int, *, is_exact: bool = False) -> Trial:
        return Trial(make(), module, stream, backbone(), is_exact=is_exact, chance=chance)

    first = trial(0)
    first.run()
    told("parts() holds all that is trained, and there is something to train where there are epochs")
    told("what a hook is given stays as it was")
    first.check_losses()
    told("the loss is a finite number, and falls")
    first.check_batch_mates()
    told("scores are finite, and an image's do not depend on the others of its batch")
    first.check_bytes()
    told("a memory holds no more than it may, and the bytes reported are those held")
    _check_again(first, trial, told)
    _check_exact(first, trial(4, is_exact=True), told)
    first.check_frozen()
    told("the backbone stays frozen, bit for bit")


def _check_again(first: Trial, trial: Callable[[int], Trial], told: Told) -> None:
    """Run it once more, and from where that run was stopped."""
    with tempfile.TemporaryDirectory() as folder:
        stops = {stop_at: Path(folder, str(stop_at)) for stop_at in first.places_to_stop()}
        second = trial(1)
        second.run_keeping(stops)
        drawn = {**first.watch.drawn, **second.watch.drawn}.items()
        cause = "".join(
            f"; {hook} draws from {name}'s global generator, draw from self.seeds.generator(...)"
            for hook, name in list(drawn)[:1]
        )
        first.check_equal(second, "a second run with the same seed", cause)
        told("the same seed gives the same numbers, whatever the global generators hold")
        for stop_at, stopped in stops.items() if first.strategy.resumable else ():
            _check_resumed(first, trial(2), stopped, second.kept[stop_at], stop_at)
        if first.strategy.resumable:
            told("a run that was stopped and resumed ends as it would have, bit for bit")


def _check_exact(first: Trial, exact: Trial, told: Told) -> None:
    exact.run()
    first.check_predictions(exact, "a run that computes everything each time")
    told("with every feature computed each time it predicts the same")


def _check_resumed(first: Trial, resumed: Trial, stopped: Path, kept: dict[str, str], stop_at: int) -> None:
    what = f"a run stopped at its {stop_at + 1}th checkpoint and resumed"
    try:
        resumed.resume(stopped)
    except (PluginError, AssertionError) as error:
        raise PluginError(f"{what} fails: {error}{resumed.lost_since(kept)}") from error
    first.check_equal(resumed, what, resumed.lost_since(kept))
