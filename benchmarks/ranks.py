"""Measure a training step shared out over two processes against one process, and against torch's own DDP.

    python benchmarks/ranks.py [--rounds 5] [--steps 8] [--image-size 224] [--batch-size 16]

ViT-Ti with random weights on random images. Four sides take turns, each in processes of its own: one process
with one thread, one with two, two processes of one thread that share the batch as clbench does, and two of
one thread that share it by DistributedDataParallel, each with half the batch and its own mean. A side's time
is the median of its steps behind the first four; of the rounds the median is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from clbench.backbones.ranks import Ranks

SIDES = ("one thread", "two threads", "two ranks", "DDP")
WARM_UP = 4  # steps: the first two count their operations, each process alone
NUM_CLASSES = 10


@dataclass(frozen=True)
class Case:
    """What learns, and by what module."""

    strategy: str
    module: str

    def __str__(self) -> str:
        """Write it as on the command line."""
        return f"{self.strategy}-{self.module}"


CASES = {
    str(case): case for case in (Case("naive", "adapter"), Case("naive", "full"), Case("lae", "adapter"))
}


def main() -> None:
    """Print a row a case: milliseconds a step, ratios, and megabytes that a rank sends a step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measured(CASES[options.cases], options)))
        return
    print(
        "| learner | one thread, ms | two threads | two ranks | DDP | ranks / two threads | sent, MB a step |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in options.cases.split(","):
        rounds = [{side: apart(name, side, options) for side in SIDES} for _ in range(options.rounds)]
        ms = {side: statistics.median(found[side]["ms"] for found in rounds) for side in SIDES}
        megabytes = rounds[0]["two ranks"]["megabytes"]
        row = " | ".join(f"{ms[side]:.0f}" for side in SIDES)
        print(f"| {name} | {row} | {ms['two ranks'] / ms['two threads']:.2f} | {megabytes:.2f} |", flush=True)


def apart(name: str, side: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure one side in processes of its own."""
    is_shared = side in ("two ranks", "DDP")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if is_shared else []
    sizes = {"--steps": options.steps, "--image-size": options.image_size, "--batch-size": options.batch_size}
    words = [word for option, value in sizes.items() for word in (option, str(value))]
    threads = "2" if side == "two threads" else "1"
    done = subprocess.run(
        [sys.executable, *launcher, __file__, "--cases", name, "--side", side, *words],
        env={**os.environ, "OMP_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[0])
    return found


def measured(case: Case, options: argparse.Namespace) -> dict[str, float]:
    """Return the milliseconds of a step in this process, and what it sends."""
    from clbench.cli.ranks import joined_ranks

    with joined_ranks() as ranks:
        make = ddp_steps if options.side == "DDP" else our_steps
        step = make(case, options, ranks)
        times = []
        for number in range(WARM_UP + options.steps):
            if number == WARM_UP and ranks:
                ranks.num_bytes = 0
            start = time.perf_counter()
            float(step(number))
            times.append(time.perf_counter() - start)
        sent = ranks.num_bytes / options.steps / 1e6 if ranks else 0.0
    return {"ms": 1000 * statistics.median(times[WARM_UP:]), "megabytes": sent}


def our_steps(case: Case, options: argparse.Namespace, ranks: Ranks | None) -> Callable[[int], Tensor]:
    """Return a step of our loop, by its number."""
    import numpy as np
    import torch

    from clbench import backbones, petl, strategies
    from clbench.backbones import BackboneOptions
    from clbench.data.batches import Batcher
    from clbench.data.samples import Samples
    from clbench.evaluate.meter import Meter
    from clbench.records.spec import RunOptions
    from clbench.runs.checkpoint import Position
    from clbench.runs.loop import Loop
    from clbench.seeds import Seeds
    from clbench.streams import Task, TaskStream

    random = np.random.default_rng(0)
    images = random.integers(0, 256, size=(options.batch_size, 32, 32, 3), dtype=np.uint8)
    labels = random.integers(0, NUM_CLASSES, size=options.batch_size)
    samples = Samples(images, np.arange(options.batch_size), labels)
    classes = list(range(NUM_CLASSES))
    task = Task(0, classes, classes, samples, samples, samples)
    stream = TaskStream("random", [task], classes, [str(each) for each in classes], augment="none")
    made = BackboneOptions(weights="none", image_size=options.image_size)
    backbone = backbones.create("vit_tiny_patch16_224", made)
    strategy = strategies.get(case.strategy)(batch_size=options.batch_size)
    strategy.setup(backbone, petl.get(case.module)(), Seeds(0))
    backbone.ranks = ranks
    device = torch.device("cpu")
    meter = Meter(device)
    if ranks:
        meter.whole, meter.in_parts = ranks.whole, ranks.in_parts
    batcher = Batcher(images, backbone.preprocessing, "none", device)
    loop = Loop(strategy, stream, batcher, Seeds(0), meter, RunOptions())
    loop._begin(task)
    strategy.begin_epoch(0)
    optimizer = loop.optimizer
    assert optimizer is not None

    def step(number: int) -> Tensor:
        batch = loop._batch(samples, np.arange(options.batch_size), Position(0, 0, number))
        return loop.step.learn(batch, optimizer, 0.0)

    return step


def ddp_steps(case: Case, options: argparse.Namespace, ranks: Ranks | None) -> Callable[[int], Tensor]:
    """Return a step of a bare loop around DistributedDataParallel on this rank's half of a batch."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    from clbench import backbones, petl
    from clbench.backbones import BackboneOptions

    made = BackboneOptions(weights="none", image_size=options.image_size)
    backbone = backbones.create("vit_tiny_patch16_224", made)
    backbone.requires_grad_(False)
    module = petl.get(case.module)().attach(backbone, torch.Generator().manual_seed(0))
    network = nn.Sequential(backbone, nn.Linear(backbone.width, NUM_CLASSES))
    network.module = module  # its parameters are the network's, too
    module.train()
    shared = DistributedDataParallel(network)
    learning = [each for each in network.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=0.003, fused=True)
    size = options.batch_size // 2
    images = torch.randn(size, 3, options.image_size, options.image_size)
    labels = torch.arange(size) % NUM_CLASSES

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(shared(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


if __name__ == "__main__":
    main()
