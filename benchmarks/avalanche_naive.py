"""Run Naive in Avalanche's own loop and in ours: the same stream, backbone, module, optimiser and schedule.

    python benchmarks/avalanche_naive.py [--module linear]

Both take turns on the embedded digits, with vit-micro and a module, without augmentation, and evaluate
on the tasks seen after each task. Avalanche gets the images as its experiences hand them out; the network
resizes and normalises whole batches of them, which is the fastest way that it has. Our loop's time
includes counting its FLOPs, which Avalanche does not do. Medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from clbench import backbones, petl, strategies, streams
from clbench.avalanche.experiences import experiences
from clbench.data.batches import Batcher
from clbench.evaluate.meter import Meter
from clbench.learning.heads import GrowingHead
from clbench.runs.evaluator import Columns
from clbench.runs.loop import Loop
from clbench.seeds import Seeds
from clbench.streams import Places, TaskStream

EPOCHS, BATCH_SIZE, LEARNING_RATE, SEED = 20, 24, 0.0028125, 0  # the recipe for the digits


def ours(stream: TaskStream, module: str) -> tuple[float, float]:
    """Return the seconds that our loop takes, and its final accuracy."""
    seeds = Seeds(SEED)
    backbone = backbones.create("vit-micro")
    strategy = strategies.get("naive")(
        epochs=EPOCHS, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, drop_last=False
    )
    strategy.setup(backbone, petl.get(module)(), seeds)
    device = torch.device("cpu")
    batcher = Batcher(stream.tasks[0].train.images, backbone.preprocessing, stream.augment, device)
    accuracies: list[float] = []

    def log(task: int, columns: Columns | None) -> list[float]:
        assert columns is not None
        accuracies.append(float((columns["prediction"] == columns["label"]).mean()))
        return accuracies

    loop = Loop(strategy, stream, batcher, seeds, Meter(device), log=log)
    start = time.perf_counter()
    loop.run()
    return time.perf_counter() - start, accuracies[-1]


class Network(nn.Module):
    """The backbone with the module attached, and one head for all classes."""

    def __init__(self, num_classes: int, module: str) -> None:
        """Make the same parts as our strategy does."""
        super().__init__()
        seeds = Seeds(SEED)
        self.backbone = backbones.create("vit-micro")
        self.module = petl.get(module)().attach(self.backbone, seeds.generator("petl"))
        self.head = GrowingHead(self.backbone.width)
        self.head.grow(num_classes, seeds.generator("head", 0), torch.device("cpu"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of all classes of images (B, 3, H, W) in [0, 1]."""
        expected = self.backbone.preprocessing
        size = (expected.image_size, expected.image_size)
        resized = F.interpolate(images, size, mode=expected.interpolation, antialias=True)
        mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (expected.mean, expected.std))
        logits: torch.Tensor = self.head(self.backbone((resized - mean) / std))
        return logits


def avalanche(stream: TaskStream, module: str) -> tuple[float, float]:
    """Return the seconds that Avalanche's loop takes, and its final accuracy."""
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

    network = Network(len(stream.class_names), module)
    train, test = experiences(stream, "train"), experiences(stream, "test")
    trained = [p for p in network.parameters() if p.requires_grad]
    strategy = Naive(
        model=network,
        optimizer=torch.optim.Adam(trained, lr=LEARNING_RATE),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH_SIZE,
        train_epochs=EPOCHS,
        eval_mb_size=256,
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    )
    start = time.perf_counter()
    for index, experience in enumerate(train):
        strategy.train(experience)
        results = strategy.eval(test[: index + 1])
    seconds = time.perf_counter() - start
    (accuracy,) = [value for name, value in results.items() if name.startswith("Top1_Acc_Stream")]
    return seconds, accuracy


def main() -> None:
    """Print the seconds of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--module", default="adapter", choices=petl.names())
    options = parser.parse_args()
    rounds = options.rounds
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as cache:
        loader = streams.get("split-digits")(augment="none")
        stream = loader.build("split-digits", Places(None, Path(cache)), Seeds(SEED))
        sides = {"clbench": ours, "avalanche": avalanche}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        accuracy = dict.fromkeys(sides, 0.0)
        for round_number in range(rounds + 1):
            for side, run in sides.items():
                taken, accuracy[side] = run(stream, options.module)
                if round_number > 0:  # the first round warms up
                    seconds[side].append(taken)
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    for side, median in medians.items():
        print(f"{side:10s} {median:6.2f} s   final accuracy {100 * accuracy[side]:.1f} %")
    ratio = medians["avalanche"] / medians["clbench"]
    print(f"avalanche / clbench: {ratio:.2f} (medians of {rounds} interleaved rounds)")


if __name__ == "__main__":
    main()
