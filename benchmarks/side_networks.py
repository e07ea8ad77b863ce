"""Measure what side networks keep to learn, and what is left of them when they fade.

    python benchmarks/side_networks.py --data-dir DIR --weights vit_tiny_patch16_224.safetensors --out side

``steps``: a few training steps with each module on random images, each in a process of its own: the bytes
that a step keeps for its backward pass beside the weights, the process's peak, and times. ``learners``:
``mdpd`` and ``naive`` learn CIFAR-100, which is in DIR, in ten tasks, all with the same images, epochs and
optimiser. The learning rate of each is the best of three on validation images of the first two tasks; test
images are predicted once. Learners that have rows in ``--out`` are left as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch
from cifar100 import accuracy, cifar100, predictions, questions, ten_tasks
from tables import Row, as_csv, finished, known_rows
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import backbones, petl, strategies
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher
from clbench.evaluate.memory import PeakMemory
from clbench.evaluate.timing import ratio_of_times
from clbench.files import write_text
from clbench.options import build
from clbench.petl.attached import Attached
from clbench.records.forms import with_variants
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.report.columns import values_of
from clbench.seeds import Seeds
from clbench.streams import TaskStream

MODULES = ("linear", "lst", "unipt", "sherl", "lora", "norm-tuning", "full")
CASES = (("vit_tiny_patch16_224", 16), ("vit_base_patch16_224", 2))  # networks, and images of a batch
STEPS = 3
NUM_CLASSES = 100
RATES = (0.001, 0.003, 0.01)
LEARNERS: dict[str, dict[str, object]] = {
    "mdpd-lst": {},
    "mdpd-lst head": {"backbone_train": "head"},
    "naive-linear": {},
    "naive-lst": {},
    "naive-lora": {},
    "naive-unipt": {},
    "naive-sherl": {},
    "mdpd-lst ln": {"backbone_train": "ln"},
}
COUNTS = {"image_size": 64, "train_per_class": 20, "test_per_class": 10, "epochs": 4, "batch_size": 20}
COMMON = {"optimizer": "adamw", "weight_decay": 0.0001}


def main() -> None:
    """Make both tables."""
    parser = questions(__doc__, network="vit_tiny_patch16_224", **COUNTS)
    parser.add_argument("--parts", nargs="*", choices=("steps", "learners"), default=("steps", "learners"))
    parser.add_argument("--out", type=Path, default=Path("side"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if "steps" in options.parts:
        steps(options.out)
    if "learners" in options.parts:
        learners(options)


def steps(out: Path) -> None:
    """Measure every module on every network, each in a process of its own."""
    rows: list[Row] = []
    own_process = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=own_process, max_tasks_per_child=1) as pool:
        for network, batch in CASES:
            for module in MODULES:
                rows.append(pool.submit(one_step, module, network, batch).result())
                print(*rows[-1].values(), flush=True)
                write_text(out / "side_steps.csv", as_csv(rows))


def one_step(module: str, network: str, batch: int) -> Row:
    """Train a module and a head for a few steps; bytes in millions, time in milliseconds."""
    generator = torch.Generator().manual_seed(0)
    backbone = backbones.create(network, BackboneOptions(weights="none"))
    attached = build(petl.get(module), "petl", {}).attach(backbone, generator).train()
    head = nn.Linear(backbone.width, NUM_CLASSES)
    images = torch.randn(batch, 3, 224, 224, generator=generator)
    labels = torch.arange(batch) % NUM_CLASSES
    optimizer = torch.optim.AdamW([*attached.parameters(), *head.parameters()], lr=0.001)
    kept: dict[int, int] = {}
    held = {each.untyped_storage().data_ptr() for each in (*backbone.parameters(), *attached.parameters())}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = F.cross_entropy(head(backbone(images)), labels)
    del loss

    def step() -> float:
        loss = F.cross_entropy(head(backbone(images)), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return float(loss.detach())

    memory = PeakMemory(torch.device("cpu"))
    for _ in range(STEPS):
        step()
    peak = memory.process or 0
    return {
        "network": network,
        "batch": batch,
        "module": module,
        "parameters": attached.num_parameters,
        "kept_mb": round(sum(kept.values()) / 1e6, 1),
        "peak_mb": round(peak / 1e6),
        "step_ratio": round(_slowdown(attached, step), 2),
        "image_ratio": round(_slowdown(attached, lambda: predicted(backbone, images[:1])), 2),
    }


def _slowdown(attached: Attached, call: Callable[[], object]) -> float:
    """Return the time with the module by that without it, where the head alone learns."""

    def without() -> None:
        attached.enabled = False
        try:
            call()
        finally:
            attached.enabled = True

    return ratio_of_times(call, without, rounds=STEPS)


@torch.no_grad()
def predicted(backbone: Backbone, image: Tensor) -> float:
    """Compute the features of an image."""
    return float(backbone(image).sum())


def learners(options: argparse.Namespace) -> None:
    """Choose each learner's rate, let it learn, and write what came of it, a row for each form."""
    table = options.out / "side_learners.csv"
    rows: list[Row] = [*known_rows(table)]
    for label, own in LEARNERS.items():
        if label in (row["learner"] for row in rows):
            continue
        rate = chosen_rate(label, own, options)
        record = finished(spec_of(label, own, rate, options), options.out, options.data_dir)
        for each in with_variants(record):
            rows.append(measured(label, rate, each))
            print(*rows[-1].values(), flush=True)
        write_text(table, as_csv(rows))


def chosen_rate(label: str, own: dict[str, object], options: argparse.Namespace) -> float:
    """Return the rate that is best on the validation images of the first two tasks."""
    twice = {"train_per_class": 2 * options.train_per_class, "validation_rate": 0.5}
    stream = cifar100(options.data_dir, Seeds(0), tasks="10", order="1993", **twice)
    seen = replace(stream, tasks=[replace(task, test=task.validation) for task in stream.tasks[:2]])
    scores = {rate: _score(label, {**own, "learning_rate": rate}, seen, options) for rate in RATES}
    print(label, {rate: round(100 * score, 1) for rate, score in scores.items()}, flush=True)
    return max(scores, key=lambda rate: scores[rate])


def _score(label: str, own: dict[str, object], stream: TaskStream, options: argparse.Namespace) -> float:
    name, module = strategies.split(label.split()[0])
    chosen = {**COMMON, **own, "epochs": options.epochs, "batch_size": options.batch_size}
    strategy = build(strategies.get(name), "strategy", chosen)
    weights = BackboneOptions(weights=options.weights, image_size=options.image_size)
    backbone = backbones.create("vit_tiny_patch16_224", weights)
    strategy.setup(backbone, build(petl.get(module or ""), "petl", {}), Seeds(0))
    images = stream.tasks[0].train.images
    batcher = Batcher(images, backbone.preprocessing, "none", torch.device("cpu"))
    return accuracy(predictions(strategy, stream, batcher, Seeds(0))[-1])


def spec_of(label: str, own: dict[str, object], rate: float, options: argparse.Namespace) -> RunSpec:
    """Return the run of a learner, which predicts in the end as each of its paths, too."""
    name = label.split()[0]
    forms = strategies.get(name).own_variants
    chosen = {**COMMON, **own, "epochs": options.epochs, "batch_size": options.batch_size}
    return resolve(
        {
            **ten_tasks(options),
            "strategy": {"name": name, "learning_rate": rate, **chosen},
            "variant": [{"name": form} for form in forms],
            "run": {"variants": "end"},
        }
    )


def measured(label: str, rate: float, record: Record) -> Row:
    """Return what the table says of a run, or of one form of its learner, in percent, seconds and bytes."""
    values = values_of(record)
    return {
        "learner": label,
        "form": record.spec.deployed.name if record.spec.deployed else "",
        "learning_rate": rate,
        **{
            name: f"{100 * values[name]:.1f}" for name in ("accuracy", "accuracy-masked", "learning-accuracy")
        },
        "latency_ratio": round(values["speed.latency_ratio"], 2) if "speed.latency_ratio" in values else "",
        "train_mb": round(values.get("memory.process.train", 0) / 1e6) or "",
        "train_seconds": round(values.get("time.train.seconds", 0), 1) or "",
    }


if __name__ == "__main__":
    main()
