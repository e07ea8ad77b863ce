"""Measure a step of online experience replay in our loop, in a bare PyTorch loop, and in Avalanche's.

    python benchmarks/online_replay.py [--rounds 5] [--steps 100] [--network slim-resnet18]

Each learns the same random images, 10 at a time and each once, together with 10 from a reservoir of 1,000
that is full, by plain SGD at 0.1, from scratch and without augmentation. Two networks: the slim ResNet-18 of
the field at 32 pixels, whose arithmetic takes nearly all of the time on a CPU, and a ViT of three blocks of
width 32 at 8 pixels, whose arithmetic takes little, so that the loops themselves are compared.

Avalanche runs Naive with its replay plug-in and reservoir over an online stream (an experience a batch),
without metrics, on images that are normalised beforehand. The bare loop indexes the uint8 images and a
pre-allocated reservoir itself. Our time includes what our loop does once an epoch, such as counting FLOPs.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import backbones, petl, strategies
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher
from clbench.data.samples import Samples
from clbench.evaluate.meter import Meter
from clbench.evaluate.timing import ratio_of_times
from clbench.runs.checkpoint import Position
from clbench.runs.loop import Loop
from clbench.seeds import Seeds
from clbench.streams import Task, TaskStream
from clbench.testing.generated import small_backbone

NUM_CLASSES, BATCH, MEMORY, RATE = 10, 10, 1000, 0.1
CPU = torch.device("cpu")


def slim_resnet18() -> Backbone:
    """Return the network that online learning is usually measured with."""
    return backbones.create("slim-resnet18", BackboneOptions(weights="none"))


NETWORKS = {"slim-resnet18": (slim_resnet18, 32), "small-vit": (small_backbone, 8)}  # and pixels a side
Images = NDArray[np.uint8]


def ours(make: Callable[[], Backbone], images: Images, labels: NDArray[np.int64]) -> Callable[[], object]:
    """Return one pass of our loop over the images; the memory goes on from pass to pass."""
    samples = Samples(images, np.arange(len(images)), labels)
    classes = list(range(NUM_CLASSES))
    names = [str(number) for number in classes]
    task = Task(0, classes, classes, samples, samples, samples)
    stream = TaskStream("random", [task], classes, names, augment="none", micro_batch=BATCH)
    backbone, seeds = make(), Seeds(0)
    strategy = strategies.get("er")(
        memory_size=MEMORY, epochs=1, batch_size=BATCH, optimizer="sgd", learning_rate=RATE, momentum=0.0
    )
    strategy.setup(backbone, petl.get("full")(), seeds)
    loop = Loop(
        strategy,
        stream,
        Batcher(images, backbone.preprocessing, "none", CPU),
        seeds,
        Meter(CPU),
    )
    loop._begin(task)
    return lambda: loop._learn(task, samples, Position())


class Network(nn.Module):
    """The model inside a backbone, as its library made it but for our sites, and a classifier."""

    def __init__(self, backbone: Backbone) -> None:
        """Let everything be trained."""
        super().__init__()
        self.encoder = backbone.model.requires_grad_(True)
        self.head = nn.Linear(backbone.width, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of normalised images."""
        logits: Tensor = self.head(self.encoder(images))
        return logits


def bare(make: Callable[[], Backbone], images: Images, labels: NDArray[np.int64]) -> Callable[[], object]:
    """Return one pass of a loop that is written out."""
    network = Network(make()).train()
    optimizer = torch.optim.SGD(network.parameters(), RATE, fused=True)
    stored, targets = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
    memory = torch.zeros(MEMORY, *stored.shape[1:], dtype=torch.uint8)
    memory_targets = torch.zeros(MEMORY, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    num_seen = 0

    def epoch() -> None:
        nonlocal num_seen
        for index in torch.randperm(len(stored), generator=generator).split(BATCH):
            new, new_targets = stored[index], targets[index]
            drawn = torch.randperm(min(num_seen, MEMORY), generator=generator)[:BATCH]
            pixels = torch.cat([new, memory[drawn]]).float().mul_(2 / 255).sub_(1)
            loss = F.cross_entropy(network(pixels), torch.cat([new_targets, memory_targets[drawn]]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for number in range(len(index)):
                place = num_seen
                if num_seen >= MEMORY:
                    place = int(torch.randint(num_seen + 1, (), generator=generator))
                if place < MEMORY:
                    memory[place], memory_targets[place] = new[number], new_targets[number]
                num_seen += 1

    return epoch


def avalanche(
    make: Callable[[], Backbone], images: Images, labels: NDArray[np.int64]
) -> Callable[[], object]:
    """Return one pass of Avalanche's loop."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.scenarios.online import split_online_stream
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.storage_policy import ReservoirSamplingBuffer
    from avalanche.training.supervised import Naive
    from torch.utils.data import TensorDataset

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().mul_(2 / 255).sub_(1)
    tensors = TensorDataset(pixels, torch.from_numpy(labels))
    tensors.targets = torch.from_numpy(labels)  # where Avalanche looks for them
    network = Network(make())
    reservoir = ReservoirSamplingBuffer(MEMORY)
    strategy = Naive(
        model=network,
        optimizer=torch.optim.SGD(network.parameters(), RATE, fused=True),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        evaluator=EvaluationPlugin(loggers=[]),
        plugins=[ReplayPlugin(MEMORY, batch_size=BATCH, batch_size_mem=BATCH, storage_policy=reservoir)],
    )

    def task() -> None:
        benchmark = benchmark_from_datasets(train=[as_classification_dataset(tensors)])
        for experience in split_online_stream(benchmark.train_stream, experience_size=BATCH):
            strategy.train(experience)

    return task


def milliseconds(call: Callable[[], object], steps: int) -> float:
    """Return the processor's time for a step, which other processes disturb less than the clock's."""
    start = time.process_time()
    call()
    return (time.process_time() - start) / steps * 1000


def main() -> None:
    """Print the milliseconds of a step, and the others' time by ours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=100, help="of a round; with 100 it begins with a full memory"
    )
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: all")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    count = options.steps * BATCH
    for name in options.network or NETWORKS:
        make, side = NETWORKS[name]
        images = random.integers(0, 256, size=(count, side, side, 3), dtype=np.uint8)
        labels = random.integers(0, NUM_CLASSES, size=count)
        loops = {each.__name__: each(make, images, labels) for each in (ours, bare, avalanche)}
        for loop in loops.values():
            loop()  # fills its memory
        times = ", ".join(f"{side} {milliseconds(loop, options.steps):.1f}" for side, loop in loops.items())
        print(f"{name}: CPU ms a step: {times}")
        for other in ("bare", "avalanche"):
            ratio = ratio_of_times(loops[other], loops["ours"], rounds=options.rounds)
            print(f"  {other} / ours: {ratio:.2f} (median of {options.rounds} interleaved pairs)", flush=True)


if __name__ == "__main__":
    main()
