"""Check that a strategy, a stream or a module keeps its contract: for built-ins and third parties alike.

Each check raises AssertionError with a line that says what was broken. They run on the CPU, on small
generated data and a small random backbone, in seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from clbench import strategies
from clbench.backbones.backbone import Backbone
from clbench.strategies import Strategy
from clbench.testing.petl_contract import check_petl as check_petl
from clbench.testing.stream_contract import check_stream as check_stream
from clbench.testing.trial import Trial, generated_stream, small_backbone


def check_strategy(
    make: Callable[[], Strategy],
    module: str | None = None,
    backbone: Callable[[], Backbone] = small_backbone,
) -> None:
    """Run a strategy over two generated tasks and check its contract.

    ``make`` returns a new strategy, for instance ``lambda: LAE(epochs=2)``; it should train for a few steps.
    Without a ``module`` it gets the one that it is registered with. Checked: the loss is finite and falls;
    the frozen backbone stays bit for bit what it was; the same seed gives the same numbers; a stopped and
    resumed run ends bit-equal; scores are finite, probabilities where that is declared, and not all alike; a
    prediction does not depend on its batch mates; a memory never holds more than it may; the bytes reported
    are the bytes held; with everything computed each time the predictions are the same.
    """
    strategy = make()
    module = module or module_of(type(strategy))
    stream = generated_stream(scenario="task" if "task-identity" in strategy.needs else "class")

    def trial(is_exact: bool = False) -> Trial:
        return Trial(make(), module, stream, backbone(), is_exact=is_exact)

    first = trial()
    first.run()
    first.check_losses()
    first.check_batch_mates()
    first.check_bytes()
    with tempfile.TemporaryDirectory() as folder:
        stops = {stop_at: Path(folder, str(stop_at)) for stop_at in first.places_to_stop()}
        second = trial()
        second.run_keeping(stops)
        first.check_equal(second, "a second run with the same seed")
        for stop_at, stopped in stops.items() if strategy.resumable else ():
            resumed = trial()
            resumed.run(stopped)
            first.check_equal(resumed, f"a run stopped at its {stop_at + 1}th checkpoint and resumed")
    exact = trial(is_exact=True)
    exact.run()
    first.check_predictions(exact, "a run that computes everything each time")
    first.check_frozen()


def module_of(strategy: type[Strategy]) -> str:
    """Return the module that a strategy is registered with; "adapter" where it is not registered."""
    for name in strategies.names():
        if strategies.registry.get(name) is strategy:
            return str(strategies.registry.card(name).preset.get("petl", "linear"))
    return "adapter"
