"""Avalanche's loop reports our metrics: what was predicted, counted right where its own metrics are not."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clbench import evaluate
from clbench.avalanche.experiences import as_experiences
from clbench.avalanche.quietly import import_avalanche
from clbench.data.samples import Samples
from clbench.errors import UserError
from clbench.testing.generated import generated_stream

NUM_IMAGES = 20  # a task, of scripted learners: every accuracy is a multiple of 0.05
LATE_PEAK = np.array([[0.90, 0.30, 0.10], [0.95, 0.80, 0.20], [0.60, 0.70, 0.90]])
SHARED = [[0, 1]] * 3  # classes of each task
OWN = [[0, 1], [2, 3], [4, 5]]


class Scripted(nn.Module):
    """Predicts what a matrix of accuracies says: after ``step`` tasks, of the images of each task."""

    def __init__(self, accuracy: NDArray[np.float64], classes: list[list[int]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.accuracy = accuracy
        self.classes = classes
        self.step = 0

    def forward(self, images: Tensor) -> Tensor:
        task, place, label = (images[:, :, 0, 0] * 255).round().long().T
        right = torch.from_numpy(self.accuracy)[self.step][task] * NUM_IMAGES
        num_classes = 1 + max(map(max, self.classes))
        predicted = torch.where(place < right.round(), label, (label + 1) % num_classes)
        return nn.functional.one_hot(predicted, num_classes) * 3.0 + 0 * self.weight


def scripted_experiences(classes: list[list[int]], split: str) -> list[Any]:
    """Experiences whose images hold task, place and label in their three channels."""
    rows = np.arange(NUM_IMAGES)
    parts = []
    for task, own in enumerate(classes):
        labels = np.array(own)[rows % len(own)]
        pixels = np.stack([np.full(NUM_IMAGES, task), rows, labels], axis=1).astype(np.uint8)
        parts.append(Samples(pixels[:, None, None, :], rows, labels))
    return as_experiences(parts, split)


def naive(model: nn.Module, evaluator: Any, epochs: int = 0, **options: Any) -> Any:
    from avalanche.training.supervised import Naive

    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    return Naive(
        model=model,
        optimizer=optimizer,
        train_mb_size=8,
        train_epochs=epochs,
        eval_mb_size=7,
        evaluator=evaluator,
        **options,
    )


def silent(*others: Any) -> Any:
    import_avalanche()
    from avalanche.logging import TextLogger

    return evaluate.avalanche_plugin(*others, loggers=[TextLogger(io.StringIO())])


def run_script(plugin: Any, classes: list[list[int]] = OWN, accuracy: NDArray[np.float64] = LATE_PEAK) -> Any:
    """Train on every experience and evaluate all of them each time; return the strategy and what it says."""
    model = Scripted(accuracy, classes)
    strategy = naive(model, plugin)
    test = scripted_experiences(classes, "test")
    said = []
    for step, experience in enumerate(scripted_experiences(classes, "train")):
        strategy.train(experience)
        model.step = step
        said.append(strategy.eval(test))
    return strategy, said


def test_importing_the_metrics_imports_neither_avalanche_nor_torch() -> None:
    code = "import sys, clbench.evaluate; sys.exit(not {'avalanche', 'torch'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_forgetting_is_from_the_peak_and_what_is_to_come_does_not_count() -> None:
    import_avalanche()
    from avalanche.evaluation.metrics import forgetting_metrics
    from avalanche.logging import TextLogger

    printed = io.StringIO()
    plugin = evaluate.avalanche_plugin(*forgetting_metrics(stream=True), loggers=[TextLogger(printed)])
    _, said = run_script(plugin)
    assert [each["clbench/accuracy"] for each in said] == pytest.approx([0.9, 0.875, 2.2 / 3])
    assert "clbench/forgetting" not in said[0]  # one task: not known
    assert said[1]["clbench/forgetting"] == pytest.approx(-0.05)
    assert said[2]["clbench/forgetting"] == pytest.approx(0.225)  # mean of 0.95 - 0.60 and 0.80 - 0.70
    assert said[2]["StreamForgetting/eval_phase/test_stream"] == pytest.approx(0.2)  # from the first value
    assert plugin.get_last_metrics()["clbench/forgetting"] == pytest.approx(0.225)
    assert "\tclbench/forgetting = 0.2250\n" in printed.getvalue()
    np.testing.assert_allclose(plugin.results().accuracy, LATE_PEAK)
    assert not any(name.startswith("clbench/fwt") for each in said for name in each)


def test_the_training_stream_has_a_log_of_its_own() -> None:
    plugin = silent()
    strategy, said = run_script(plugin)
    strategy.model.accuracy = np.ones((3, 3))
    again = strategy.eval(scripted_experiences(OWN, "train"))
    assert again["clbench/forgetting"] == said[-1]["clbench/forgetting"]
    assert again["clbench/accuracy/train_stream"] == 1.0
    np.testing.assert_allclose(plugin.results().accuracy, LATE_PEAK)
    assert np.isnan(plugin.results("train").accuracy[:2]).all()


def test_an_evaluation_takes_the_place_of_the_one_before_it() -> None:
    plugin = silent()
    strategy, _ = run_script(plugin)
    strategy.model.accuracy = np.full((3, 3), 0.5)
    test = scripted_experiences(OWN, "test")
    assert strategy.eval(test[:1])["clbench/accuracy"] == pytest.approx((0.5 + 0.7 + 0.9) / 3)
    strategy.train(scripted_experiences(OWN, "train")[0])  # once more: no new task
    assert strategy.eval(test)["clbench/accuracy"] == pytest.approx(0.5)
    np.testing.assert_allclose(plugin.results().accuracy, [*LATE_PEAK[:2], [0.5] * 3])


def test_tasks_count_in_the_order_in_which_they_are_learnt() -> None:
    plugin = silent()
    model = Scripted(LATE_PEAK, OWN)
    strategy = naive(model, plugin)
    train, test = (scripted_experiences(OWN, split) for split in ("train", "test"))
    order = [2, 0]
    for step, number in enumerate(order):
        strategy.train(train[number])
        model.step = step
        strategy.eval(test)
    np.testing.assert_allclose(plugin.results().accuracy, LATE_PEAK[:2][:, order])


def test_forward_transfer_is_known_where_tasks_share_their_classes() -> None:
    plugin = silent()
    strategy = naive(Scripted(np.full((3, 3), 0.5), SHARED), plugin)
    strategy.eval(scripted_experiences(SHARED, "test"))
    assert not plugin.get_last_metrics()
    model = strategy.model
    model.accuracy = LATE_PEAK
    for step, experience in enumerate(scripted_experiences(SHARED, "train")):
        strategy.train(experience)
        model.step = step
        said = strategy.eval(scripted_experiences(SHARED, "test"))
    assert said["clbench/fwt"] == pytest.approx(((0.30 - 0.5) + (0.20 - 0.5)) / 2)


# learners that learn


def count(model: nn.Module, samples: Samples, classes: list[int] | None = None) -> float:
    """Return the accuracy by hand, choosing among all or some classes."""
    images = torch.from_numpy(samples.images[samples.rows]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        scores = model.eval()(images)
    if classes:
        chosen = torch.tensor(classes)
        return float((chosen[scores[:, chosen].argmax(dim=1)].numpy() == samples.labels).mean())
    return float((scores.argmax(dim=1).numpy() == samples.labels).mean())


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))


def test_a_real_run_is_what_one_counts_by_hand() -> None:
    import_avalanche()
    from avalanche.evaluation.metrics import StreamAccuracy
    from avalanche.evaluation.metrics.cumulative_accuracies import CumulativeAccuracyPluginMetric

    tasks = generated_stream(2).tasks
    plugin = silent(StreamAccuracy(), CumulativeAccuracyPluginMetric())
    model = linear()
    strategy = naive(model, plugin, epochs=2, eval_every=1)
    train, test = (
        as_experiences([getattr(task, part) for task in tasks], part) for part in ("train", "test")
    )
    accuracy, masked = np.zeros((2, 2)), np.zeros((2, 2))
    for step, experience in enumerate(train):
        strategy.train(experience, eval_streams=[test])
        accuracy[step] = [count(model, task.test) for task in tasks]
        masked[step] = [count(model, task.test, task.classes) for task in tasks]
    said = plugin.get_last_metrics()
    results = plugin.results()
    np.testing.assert_allclose(results.accuracy, accuracy)
    np.testing.assert_allclose(results.masked, masked)
    assert said["clbench/accuracy-micro"] == said["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
    theirs = [said[f"CumulativeAccuracy/eval_phase/test_stream/Exp{task:03}"] for task in range(2)]
    np.testing.assert_allclose(results.cumulative[-1], theirs)
    images = torch.cat([batch[0] for e in test for batch in torch.utils.data.DataLoader(e.dataset, 64)])
    with torch.no_grad():
        shares = model.eval()(images).double().softmax(dim=1)
    np.testing.assert_allclose(results.confidence, shares.max(dim=1).values, rtol=1e-6)  # in single precision


def test_the_parts_of_an_online_stream_belong_to_the_experience_they_were_cut_from() -> None:
    import_avalanche()
    from avalanche.benchmarks.scenarios.online import split_online_stream

    tasks = generated_stream(2).tasks
    plugin = silent()
    model = linear()
    strategy = naive(model, plugin, epochs=1)
    train, test = (
        as_experiences([getattr(task, part) for task in tasks], part) for part in ("train", "test")
    )
    accuracy, num_parts = np.zeros((2, 2)), 0
    for step, experience in enumerate(train):
        for part in split_online_stream([experience], 8, seed=0):
            strategy.train(part)
            strategy.eval(test)
            num_parts += 1
        accuracy[step] = [count(model, task.test) for task in tasks]
    assert num_parts == sum(-(-len(task.train) // 8) for task in tasks) > 2
    np.testing.assert_allclose(plugin.results().accuracy, accuracy)


def test_an_online_stream_without_boundaries_is_refused_in_one_line() -> None:
    import_avalanche()
    from avalanche.benchmarks.scenarios.online import split_continuous_linear_decay_stream

    train = as_experiences([task.train for task in generated_stream(2).tasks], "train")
    stream = split_continuous_linear_decay_stream(train, 8, 2, 4, shuffle=False)
    with pytest.raises(UserError, match=r"^the online stream has no boundaries: .* is not known$"):
        naive(linear(), silent(), epochs=1).train(stream)


def test_joint_training_knows_the_end_and_no_forgetting() -> None:
    import_avalanche()
    from avalanche.training.supervised import JointTraining

    tasks = generated_stream(2).tasks
    plugin = silent()
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loss = nn.CrossEntropyLoss()
    strategy = JointTraining(
        model=model, optimizer=optimizer, criterion=loss, train_mb_size=8, evaluator=plugin
    )
    strategy.train(as_experiences([task.train for task in tasks], "train"))
    said = strategy.eval(as_experiences([task.test for task in tasks], "test"))
    assert said["clbench/accuracy"] == pytest.approx(np.mean([count(model, task.test) for task in tasks]))
    assert "clbench/forgetting" not in said


def test_a_stream_that_was_not_evaluated_is_one_line() -> None:
    with pytest.raises(
        UserError, match=r"^no experience of the stream 'test' was evaluated \(evaluated: none\)$"
    ):
        silent().results()
