"""A run stops in one line where its numbers are none, and any finite scores count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.data.inputs import Batch, Inputs
from clbench.data.samples import Samples
from clbench.data.tasks import Task, TaskStream
from clbench.learning.classifier import Classifier
from clbench.outside.finite import NotFiniteError
from clbench.runs.soundness import DivergedError, ScoresError
from clbench.runs.watch import Watch
from clbench.strategies import Strategy
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.trial import Trial

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda logits: logits - 100,
    "log-softmax": lambda logits: logits.log_softmax(dim=1),
    "softmax": lambda logits: logits.softmax(dim=1),
}


@dataclass
class Plain(Strategy):
    """Fine-tuning; ``form`` makes scores of the logits."""

    form: ClassVar[Callable[[Tensor], Tensor]] = staticmethod(FORMS["softmax"])

    def setup(self, backbone, petl, seeds) -> None:
        self.model = Classifier(backbone, petl, seeds, self.head_bits)

    def parts(self) -> dict[str, nn.Module]:
        return self.model.parts()

    def begin_task(self, task: Task) -> None:
        self.model.grow(task)

    def loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self.model.logits(batch), batch.labels)

    def predict(self, inputs: Inputs) -> Tensor:
        return type(self).form(self.model.logits(inputs))


def trial_of(form: Callable[[Tensor], Tensor], stream: TaskStream | None = None, **more: object) -> Trial:
    members = {
        "form": staticmethod(form),
        **{name: each for name, each in more.items() if name in vars(Strategy)},
    }
    options = {name: each for name, each in more.items() if name not in members}
    kind = type("Plain", (Plain,), members)
    strategy = kind(**{"epochs": 2, "batch_size": 8, "learning_rate": 0.01, **options})
    return Trial(strategy, "adapter", stream or generated_stream(), small_backbone(), is_exact=False)


# Any finite scores count


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_the_order_of_the_scores_decides_every_accuracy(scenario: str) -> None:
    stream = generated_stream(scenario=scenario)
    trials = {name: trial_of(form, stream) for name, form in FORMS.items()}
    trials["declared"] = trial_of(FORMS["softmax"], stream, gives_probabilities=True)
    for trial in trials.values():
        trial.run()
    expected = trials["declared"].logs
    assert 0 < np.mean(expected[1]["prediction"] == expected[1]["label"]) < 1
    for trial in trials.values():
        for task, columns in trial.logs.items():
            for name in ("prediction", "masked_prediction", "beaten_in"):
                np.testing.assert_array_equal(columns[name], expected[task][name])
    of_shares = ("confidence", "label_score", "sum_squares", "old_score", "new_score")
    assert all(np.isnan(trials["softmax"].logs[1][name]).all() for name in of_shares)
    assert np.isfinite(expected[1]["label_score"]).all()
    assert len(trials["softmax"].loop.evaluator.reliability["num"]) == 0
    assert len(trials["declared"].loop.evaluator.reliability["num"]) > 0


def test_classes_not_met_yet_are_not_chosen_however_low_the_others_are() -> None:
    trials = [trial_of(form) for form in FORMS.values()]
    hits = []
    for trial in trials:
        trial.strategy.begin_task(trial.stream.tasks[0])
        watch = Watch(trial.loop.evaluator, trial.loop.seeds, every=1, num_images=4)
        test = trial.stream.tasks[0].test
        known = torch.tensor([False, True])
        inputs, labels = watch.evaluator.inputs(test.rows, 0), torch.from_numpy(test.labels)
        hits.append(watch.evaluator.hits(inputs, labels, known, trial.stream.tasks[:1], is_changed=False))
    assert hits == [int((trials[0].stream.tasks[0].test.labels == 1).sum())] * 3


# Scores that say nothing


def broken_once_two_tasks_are_known(logits: Tensor) -> Tensor:
    return (
        logits.masked_fill(torch.arange(len(logits))[:, None] < 3, torch.nan)
        if logits.shape[1] > 2
        else logits
    )


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            broken_once_two_tasks_are_known,
            r"^strategy Plain, after task 2: 3 of 24 rows of scores are not finite$",
        ),
        (
            lambda logits: 0 * logits + torch.arange(logits.shape[1]),
            "after task 1: 12 of 12 rows of scores are the same",
        ),
        (
            lambda logits: logits[:, :1].expand_as(logits),
            "after task 1: 12 of 12 rows of scores give every class",
        ),
    ],
)
def test_scores_that_say_nothing_stop_a_run(form: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ScoresError, match=message):
        trial_of(form).run()


def test_a_declaration_that_is_not_true_stops_a_run() -> None:
    with pytest.raises(ScoresError, match="after task 1: gives_probabilities is true, and 12 of 12 rows"):
        trial_of(FORMS["logits"], gives_probabilities=True).run()


def test_a_first_task_of_one_class_may_have_one_row_for_all() -> None:
    trial_of(FORMS["softmax"], generated_stream(classes_per_task=1), gives_probabilities=True).run()


def test_an_untrained_learner_may_say_nothing_but_must_say_it_in_numbers() -> None:
    tasks = generated_stream(num_tasks=1).tasks
    for form, is_fine in ((lambda logits: 0 * logits, True), (lambda logits: torch.nan * logits, False)):
        trial = trial_of(form, replace(generated_stream(num_tasks=1), tasks=tasks))
        trial.strategy.begin_task(tasks[0])
        if is_fine:
            assert len(trial.loop.evaluator.ahead(0)["row"]) == 12
        else:
            with pytest.raises(ScoresError, match="before task 1: 12 of 12 rows of scores are not finite"):
                trial.loop.evaluator.ahead(0)


# Losses, weights, statistics


class Disturbed(Plain):
    """Fine-tuning in which one thing is made nan, once."""

    where = ""

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        if self.where == "first loss" or (self.where == "later loss" and batch.position == (0, 1, 2)):
            return loss * torch.nan
        return loss

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        if self.where == "weight" and task.index == 0:
            self._spoil()
        if self.where == "new weight" and task.index == 1:
            self._spoil()

    def after_step(self, batch: Batch) -> None:
        if self.where == "last step" and batch.position == (0, 1, 2):
            self._spoil()

    def end_task(self, task: Task, images) -> None:
        if self.where == "statistic":
            self._spoil()

    @torch.no_grad()
    def _spoil(self) -> None:
        self.model.head.tasks[-1].weight[1, 2] = torch.nan


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (
            "first loss",
            NotFiniteError,
            "task 1: the first loss is nan, although its weights, the images and their",
        ),
        (
            "later loss",
            DivergedError,
            r"task 1, epoch 2, step 3: the loss went from 0\.\d+ to nan; lower strategy\.learn",
        ),
        (
            "weight",
            NotFiniteError,
            r"before task 1: tasks\.0\.weight of its part 'head' holds .* in 1 of 64 .* nan at \[1, 2\]$",
        ),
        (
            "new weight",
            NotFiniteError,
            r"task 2: the first loss is nan, because tasks\.1\.weight of its part 'head'",
        ),
        (
            "last step",
            DivergedError,
            r"after the last step of task 1: tasks\.0\.weight .* lower strategy\.learning_rate",
        ),
        ("statistic", NotFiniteError, r"after task 1: tasks\.0\.weight of its part 'head' holds"),
    ],
)
def test_numbers_that_are_none_are_named_where_they_begin(where: str, error: type, message: str) -> None:
    kind = type("Disturbed", (Disturbed,), {"where": where})
    strategy = kind(epochs=2, batch_size=8, learning_rate=0.01)
    trial = Trial(strategy, "adapter", generated_stream(), small_backbone(), is_exact=False)
    with pytest.raises(error, match=message) as raised:
        trial.run()
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("strategy Disturbed, ")


@pytest.mark.parametrize("module", ["adapter", "linear"])  # features anew at each step, and kept
def test_features_that_are_not_finite_are_named_with_the_backbone(module: str) -> None:
    backbone = small_backbone()
    with torch.no_grad():
        list(backbone.parameters())[-1][5] = torch.nan
    trial = Trial(Plain(epochs=1, batch_size=8), module, generated_stream(), backbone, is_exact=False)
    with pytest.raises(
        NotFiniteError, match=r"backbone small-vit \(random weights\): .* of rows \d+.* holds nan or inf in"
    ):
        trial.run()


def test_float_images_of_a_stream_are_looked_at() -> None:
    stream = generated_stream(num_tasks=1)
    images = stream.tasks[0].train.images.astype(np.float32)
    images[3, 2, 1, 0] = np.inf

    def shown(samples: Samples) -> Samples:
        return Samples(images, samples.rows, samples.labels)

    task = stream.tasks[0]
    parts = {name: shown(getattr(task, name)) for name in ("train", "validation", "test")}
    with pytest.raises(NotFiniteError, match=r"^stream mine: the images .* the first inf at \[3, 2, 1, 0\]$"):
        TaskStream("mine", [replace(task, **parts)], [0, 1], ["a", "b"], augment="none")
