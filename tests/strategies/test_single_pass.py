"""What comes once is learnt from once, or the strategy says so; and what is said to learn does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clbench import petl, strategies
from clbench.cli.describing import describe
from clbench.data.inputs import Feed
from clbench.options import SpecError, build
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.runs.needs import NEEDS, cautions
from clbench.strategies import Strategy
from clbench.streams import Task, TaskStream
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.trial import Trial

MICRO_BATCH = 8
SMALL = {"memory_size": 16, "memory_epochs": 1, "importance_images": 4, "replay_batch": 8, "num_rounds": 1}


def single_pass(strategy: type[Strategy]) -> TaskStream:
    scenario = "task" if "task-identity" in strategy.needs else "class"
    return replace(generated_stream(scenario=scenario), micro_batch=MICRO_BATCH)


def serves(name: str) -> bool:
    """Tell whether a strategy can learn from a single pass."""
    strategy = strategies.get(name)
    stream, backbone = single_pass(strategy), small_backbone()
    return all(NEEDS[need].is_met(stream, backbone) for need in strategy.needs)


OWN = [name for name in strategies.names() if not name.startswith("avalanche.")]  # those keep their own loop
QUICK = ("lae", "confit", "agem", "slda")  # what has gone wrong or may; the others are slow together
SERVING = [name for name in OWN if serves(name)]


def spec_of(name: str, stream: str = "split-cifar100", module: str = "", recipe: str = "authors") -> RunSpec:
    scenario = "task" if "task-identity" in strategies.get(name).needs else "class"
    return resolve(
        {
            "stream": {"name": stream, "online": MICRO_BATCH, "scenario": scenario},
            "strategy": {"name": name, "recipe": recipe},
            "petl": {"name": module} if module else {},
        }
    )


def small(spec: RunSpec) -> Strategy:
    """The strategy of a spec, with a small memory."""
    options = spec.strategy.options
    return build(
        strategies.get(spec.strategy.name),
        "strategy",
        {**options, **{name: value for name, value in SMALL.items() if name in options}},
    )


def places() -> list[object]:
    """Every single pass that a recipe speaks of: a strategy, a stream, a module and a recipe's name."""
    found = {(name, "split-cifar100", "", "authors") for name in SERVING}
    for name in SERVING:
        strategy = strategies.get(name)
        for recipe, table in {"authors": strategy.recipes, **strategy.named_recipes}.items():
            for key in table:
                words = key.split("+")
                streams = [word for word in words if word not in ("any", "online") and "-" in word]
                modules = [word for word in words if word in petl.names()]
                found.add((name, *(streams or ["split-cifar100"]), *(modules or [""]), recipe))
    return [
        pytest.param(
            *each,
            id="-".join(filter(None, each)),
            marks=() if each[0] in QUICK and each[1:3] == ("split-cifar100", "") else pytest.mark.slow,
        )
        for each in sorted(found)
    ]


class Watched(Trial):
    """Compares what a strategy trains in its last task with what moves before the task ends."""

    def task_started(self, task: int, classes: list[str], num_images: int) -> None:
        """Remember what is said to learn, and its values."""
        self.learning = {}
        if self.strategy.num_epochs(task):
            said = {id(p) for group in self.strategy.trainable() for p in group["params"] if p.requires_grad}
            for kind, part in self.strategy.parts().items():
                own = [parameter for parameter in part.parameters() if id(parameter) in said]
                if own:
                    self.learning[kind] = [(parameter, parameter.detach().clone()) for parameter in own]

    def still(self) -> list[str]:
        """Return the parts that were said to learn in the last task, of which nothing moved."""
        return [
            kind
            for kind, parameters in self.learning.items()
            if all(torch.equal(now, before) for now, before in parameters)
        ]

    def run_until_the_end_of_the_last_task(self) -> list[str]:
        """Run; return what was still just before the strategy finished its last task."""
        finish, found = self.strategy.end_task, []

        def end_task(task: Task, images: Feed) -> None:
            found[:] = self.still()
            finish(task, images)

        self.strategy.end_task = end_task
        self.run()
        return found


@pytest.mark.parametrize(("name", "stream", "module", "recipe"), places())
def test_a_single_pass_trains_all_that_the_strategy_says_it_trains(
    name: str, stream: str, module: str, recipe: str
):
    spec = spec_of(name, stream, module, recipe)
    trial = Watched(
        small(spec), spec.petl.name, single_pass(strategies.get(name)), small_backbone(), is_exact=False
    )
    assert trial.run_until_the_end_of_the_last_task() == []
    assert bool(trial.learning) == bool(trial.strategy.num_epochs(1))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SERVING]
)
def test_what_trains_on_images_and_reads_them_again_says_so(name: str, monkeypatch: pytest.MonkeyPatch):
    reads = []
    for method in ("in_batches", "at"):
        original = getattr(Feed, method)

        def noted(feed: Feed, *given: object, original: object = original) -> object:
            reads.append(feed)
            return original(feed, *given)

        monkeypatch.setattr(Feed, method, noted)
    strategy = strategies.get(name)
    trial = Trial(
        small(spec_of(name)), spec_of(name).petl.name, single_pass(strategy), small_backbone(), is_exact=False
    )
    trial.run()
    is_trained = any(trial.strategy.num_epochs(task.index) for task in trial.stream.tasks)
    assert bool(strategy.rereads) == (bool(reads) and is_trained)


def test_who_reads_a_task_again_is_told_in_a_single_pass_only():
    stream = generated_stream()
    for name in ("ewc", "mas", "agem", "inflora"):
        strategy = strategies.get(name)()
        assert cautions(name, strategy, stream) == []
        (told,) = cautions(name, strategy, replace(stream, micro_batch=10))
        assert told.startswith(f"{name} reads the images of a task again (")
        assert "stream.online=10" in told
        assert any(note.words.startswith("reads the images") for note in describe(name)[0].notes)
    assert cautions("er", strategies.get("er")(), replace(stream, micro_batch=10)) == []


def test_lae_learns_in_a_single_pass_and_tells_of_a_schedule_in_which_it_would_not():
    assert spec_of("lae").strategy.options["frozen_epochs"] == 0
    assert strategies.get("lae")(epochs=5, frozen_epochs=4).cautions() == []
    (told,) = strategies.get("lae")(epochs=3, frozen_epochs=3).cautions()
    assert "after the first task the module does not learn" in told


def test_confit_has_no_stages_in_a_single_pass_and_refuses_those_it_has_no_epochs_for():
    assert spec_of("confit").strategy.options["hierarchical"] is False
    with pytest.raises(SpecError, match="would train the head alone; use 2 epochs or more"):
        resolve({"strategy": {"name": "confit", "epochs": 1}})
