"""Measure what our loop costs over a bare PyTorch loop that does the same arithmetic on the same images.

    python benchmarks/training_step.py [--device cuda --precision bf16 --image-size 224]

Both sides index the same uint8 array and use the same augmentation, optimiser and schedule; the bare side is
timm's own network with the adapter written into it by hand. The two take turns; medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import backbones, petl, strategies
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Preprocessing
from clbench.data.batches import Batcher
from clbench.data.samples import Samples
from clbench.evaluate.meter import Meter
from clbench.records.spec import RunOptions
from clbench.runs.checkpoint import Position
from clbench.runs.loop import Loop
from clbench.seeds import Seeds
from clbench.streams import Task, TaskStream

NUM_CLASSES = 10


@dataclass(frozen=True)
class Case:
    """One comparison."""

    name: str
    strategy: str
    module: str
    backbone: str
    image_size: int
    batch_size: int
    steps: int


CASES = [
    Case("naive-adapter, ViT-Ti", "naive", "adapter", "vit_tiny_patch16_224", 96, 24, 6),
    Case("lae-adapter, ViT-Ti", "lae", "adapter", "vit_tiny_patch16_224", 96, 24, 6),
    Case("naive-full, slim ResNet-18", "naive", "full", "slim-resnet18", 32, 10, 30),
]


class AdaptedAttention(nn.Module):
    """timm's attention with an adapter beside it, written by hand."""

    def __init__(self, attention: nn.Module, width: int, rank: int = 5) -> None:
        """Wrap timm's attention."""
        super().__init__()
        self.attention = attention
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, **options: object) -> Tensor:
        """Return the attention's output plus the adapter's."""
        return self.attention(x, **options) + self.scale * self.up(F.gelu(self.down(x)))


def random_stream(case: Case) -> TaskStream:
    """Return one task of random images."""
    random = np.random.default_rng(0)
    count = case.batch_size * case.steps
    images = random.integers(0, 256, size=(count, 32, 32, 3), dtype=np.uint8)
    samples = Samples(images, np.arange(count), random.integers(0, NUM_CLASSES, size=count))
    classes = list(range(NUM_CLASSES))
    names = [str(number) for number in classes]
    tasks = [
        Task(index, classes, classes if index == 0 else [], samples, samples, samples) for index in range(2)
    ]
    return TaskStream("random", tasks, classes, names, augment="rrc-flip")


def our_epoch(case: Case, device: torch.device, precision: str) -> tuple[Callable[[], None], Preprocessing]:
    """Return one epoch of our loop, in the state in which every hook has work to do, as a function."""
    backbone = backbones.create(case.backbone, BackboneOptions(weights="none", image_size=case.image_size))
    backbone.to(device)
    stream = random_stream(case)
    seeds = Seeds(0)
    strategy = strategies.get(case.strategy)(batch_size=case.batch_size)
    strategy.setup(backbone, petl.get(case.module)(), seeds)
    batcher = Batcher(stream.tasks[0].train.images, backbone.preprocessing, "rrc-flip", device)
    loop = Loop(strategy, stream, batcher, seeds, Meter(device), RunOptions(precision=precision))
    for task in stream.tasks:
        loop._begin(task)
    strategy.begin_epoch(strategy.epochs - 1)
    samples = stream.tasks[-1].train
    return lambda: (loop._epoch(samples, Position(1, 0, 0)), None)[1], backbone.preprocessing


def bare_epoch(
    case: Case, preprocessing: Preprocessing, device: torch.device, precision: str
) -> Callable[[], None]:
    """Return the same epoch without clbench's loop, strategy, sites and modules."""
    if case.module == "full":
        model = backbones.get(case.backbone)().build().train()
        trained = list(model.parameters())
    else:
        model = timm.create_model(case.backbone, num_classes=0, img_size=case.image_size).eval()
        model.requires_grad_(False)
        for block in model.blocks[:5]:
            block.attn = AdaptedAttention(block.attn, model.embed_dim)
        trained = [
            p for block in model.blocks[:5] for n, p in block.attn.named_parameters() if "attention" not in n
        ]
    model.to(device)
    head = nn.Linear(model.num_features, NUM_CLASSES).to(device)
    trained += list(head.parameters())
    averaged = [p.detach().clone() for p in trained] if case.strategy == "lae" else []
    optimizer = torch.optim.Adam(trained, lr=0.003, fused=True)
    samples = random_stream(case).tasks[0].train
    batcher = Batcher(samples.images, preprocessing, "rrc-flip", device)
    labels = torch.from_numpy(samples.labels).to(device)
    generator = torch.Generator().manual_seed(0)

    def epoch() -> None:
        order = torch.randperm(len(samples), generator=generator)
        for index in order.split(case.batch_size):
            images = batcher.training_batch(samples.rows[index.numpy()], generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = F.cross_entropy(head(model(images)), labels[index.to(device, non_blocking=True)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(averaged, trained, strict=False):
                    slow.lerp_(fast, 0.0001)
        float(loss.detach())  # waits for an accelerator, as our loop does at the end of an epoch

    return epoch


def main() -> None:
    """Print the milliseconds a step of each side, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--image-size", type=int, default=0, help="of the ViT, in pixels")
    options = parser.parse_args()
    rounds, device, precision = options.rounds, options.device, options.precision
    print(
        f"{'':30s} {'ours, ms':>9s} {'bare, ms':>9s} {'ratio':>6s}   (medians of {rounds} interleaved rounds)"
    )
    for each in CASES:
        case = each
        if options.image_size and case.module != "full":
            case = replace(case, image_size=options.image_size)
        ours, preprocessing = our_epoch(case, device, precision)
        sides = {"ours": ours, "bare": bare_epoch(case, preprocessing, device, precision)}
        times: dict[str, list[float]] = {side: [] for side in sides}
        for round_number in range(rounds + 2):
            for side, epoch in sides.items():
                start = time.perf_counter()
                epoch()
                if round_number >= 2:  # the first rounds warm up
                    times[side].append((time.perf_counter() - start) / case.steps * 1000)
        mine, bare = (statistics.median(times[side]) for side in ("ours", "bare"))
        print(f"{case.name:30s} {mine:9.2f} {bare:9.2f} {mine / bare:6.3f}")


if __name__ == "__main__":
    main()
