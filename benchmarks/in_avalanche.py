"""Show given predictions to Avalanche's own metrics: a network says what a log holds, in Avalanche's loop."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clbench import evaluate
from clbench.avalanche.experiences import as_experiences
from clbench.avalanche.quietly import import_avalanche
from clbench.data.samples import Samples

Log = Mapping[str, NDArray[Any]]  # columns after_task, task, label, prediction, as in a record
TRAINING = 128  # added to the task of a training image: of those the network knows every label
NAMES = {
    "accuracy": "Top1_Acc_Stream/eval_phase/test_stream/Task000",
    "forgetting": "StreamForgetting/eval_phase/test_stream",
    "bwt": "StreamBWT/eval_phase/test_stream",
    "fwt": "StreamForwardTransfer/eval_phase/test_stream",
}


def in_avalanche(
    log: Log, *, ahead: bool = False, train_too: bool = False, part_size: int = 0
) -> list[dict[str, float]]:
    """Return what Avalanche's metrics (``NAMES``) and ours (``clbench/...``) say after each task.

    Args:
        log: Predictions after each task, after_task = -1 for those of the untrained network.
        ahead: Evaluate tasks to come, too, and let Avalanche evaluate before training: for forward transfer.
        train_too: Evaluate the training stream after the test stream; it is known by heart.
        part_size: Images of each part of an online stream; 0: experiences are whole.
    """
    import_avalanche()
    from avalanche.evaluation import metrics
    from avalanche.logging import TextLogger
    from avalanche.training.supervised import Naive

    theirs = [
        metrics.StreamAccuracy(),
        metrics.StreamForgetting(),
        metrics.StreamBWT(),
        *metrics.forward_transfer_metrics(stream=ahead),
    ]
    network = Told(log)
    strategy = Naive(
        model=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        train_epochs=0,  # there is nothing to learn
        eval_mb_size=64,
        evaluator=evaluate.avalanche_plugin(*theirs, loggers=[TextLogger(io.StringIO())]),
        plugins=[step_of(network)],
        eval_every=0 if ahead else -1,
    )
    train, test = experiences(log, "train"), experiences(log, "test")
    said = []
    for number in range(len(train)):
        shown = test if ahead else test[: number + 1]
        for part in _parts(train, number, part_size):
            strategy.train(part, eval_streams=[shown] if ahead else [])
        if not ahead:
            strategy.eval(shown)
        if train_too:
            strategy.eval(train[: number + 1])
        said.append(strategy.evaluator.get_last_metrics())
    return said


def avalanche_macs(network: nn.Module, images: Tensor) -> float:
    """Return the multiply-adds that Avalanche counts in a call."""
    import_avalanche()
    from avalanche.evaluation.metrics import MAC

    counter = MAC()
    counter.update(network, images)
    return float(counter.result())


class Told(nn.Module):
    """Says what a log holds: of an image that is its own address, after the task being learnt."""

    def __init__(self, log: Log) -> None:
        """Take the log."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))  # an optimiser wants one
        self.step = -1
        self.num_classes = 1 + int(max(log["label"].max(), log["prediction"].max()))
        self.log = log

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return 1 for the predicted class of each image and 0 for the others; all are of one task."""
        task, high, low = (images_B3HW[:, :, 0, 0] * 255).round().long().T
        is_training = int(task[0]) >= TRAINING
        rows = self.log["task"] == int(task[0]) % TRAINING
        rows &= self.log["after_task"] == (self.log["after_task"].max() if is_training else self.step)
        known = torch.from_numpy(self.log["label" if is_training else "prediction"][rows]).long()
        return nn.functional.one_hot(known[256 * high + low], self.num_classes) + 0 * self.weight


def step_of(network: Told) -> Any:
    """Return a plug-in that tells the network which task is being learnt."""
    from avalanche.core import SupervisedPlugin

    class Step(SupervisedPlugin):  # type: ignore[misc]  # Avalanche ships no types
        def before_training_exp(self, strategy: Any, **_: object) -> None:
            experience = strategy.experience.logging()
            whole = vars(experience).get("origin_experience")
            network.step = (whole.value if whole else experience).current_experience

    return Step()


def experiences(log: Log, split: str) -> list[Any]:
    """Return the tasks as experiences of images that say which task and row they are."""
    parts = []
    is_last = log["after_task"] == log["after_task"].max()
    for task in range(1 + log["task"].max()):
        labels = log["label"][is_last & (log["task"] == task)].astype(np.int64)
        rows = np.arange(len(labels))
        where = np.full_like(rows, task + TRAINING * (split == "train"))
        pixels = np.stack([where, rows // 256, rows % 256], axis=1).astype(np.uint8)
        parts.append(Samples(pixels[:, None, None, :], rows, labels))
    return as_experiences(parts, split)


def _parts(train: list[Any], number: int, part_size: int) -> Iterator[Any]:
    """Yield what is trained on for one task: it, or the parts of it in a stream of parts of all tasks."""
    from avalanche.benchmarks.scenarios.online import split_online_stream

    if not part_size:
        yield train[number]
        return
    for part in split_online_stream(train, part_size, shuffle=False):
        if part.origin_experience.current_experience == number:
            yield part
