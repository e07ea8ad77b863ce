"""Tabulate accuracy, bytes and time of every module against linear probing, on ten classes of CIFAR-100.

    python benchmarks/petl_modules.py --data-dir DIR --weights vit_tiny_patch16_224.safetensors --out zoo

DIR holds CIFAR-100. Every module gets the same images and epochs and its own recipe: optimiser, learning rate
and weight decay, from its paper where that gives them. A row may set a module's options, as in ``--rows
bone:form=row,rank=8``. Rows that the CSV in ``--out`` has are kept, so a stopped table goes on. Times are
medians of pairs, a step with the module and a step of linear probing in turns; nothing is chosen on the test
images.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path

import torch
from cifar100 import accuracy, cifar100, predictions, questions
from scatter import scatter
from tables import as_csv, known_rows
from torch.nn import functional as F

from clbench import backbones, petl, strategies
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher
from clbench.errors import UserError
from clbench.evaluate.costs import stored_bytes
from clbench.evaluate.timing import ratio_of_times
from clbench.files import write_text
from clbench.options import build
from clbench.petl import Petl
from clbench.petl.attached import Attached
from clbench.petl.survey import slowdown
from clbench.quant.packed import packed_bytes
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.streams import TaskStream

FORMS = [  # beside every module with its defaults
    *("prefix:compensated=false", "fact-tt:rank=4", "fact-tk:layout=slices", "convpass:conv_init=xavier"),
    *("bi-adapter:bits=8", "bi-adapter:bits=32", "bi-lora:bits=8", "bone:form=row", "bone:form=miss"),
    *("vl-pet:variant=middle-x", "vl-pet:variant=middle-y", "vl-pet:variant=small"),
]


def main() -> None:
    """Fill the table row by row, then draw it."""
    counts = {"image_size": 64, "epochs": 8, "train_per_class": 100, "seed": 0}
    parser = questions(__doc__, network="vit_tiny_patch16_224", **counts)
    parser.add_argument("--out", type=Path, default=Path("zoo"))
    parser.add_argument("--rows", nargs="*", help="modules, as NAME or NAME:option=value,...")
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / "modules.csv"
    done = known_rows(table)
    seeds = Seeds(options.seed)
    stream = ten_classes(options.data_dir, options.train_per_class, seeds)
    backbone = backbones.create(
        options.backbone, BackboneOptions(weights=options.weights, image_size=options.image_size)
    )
    for row in options.rows or [*petl.names(), *FORMS]:
        if row in (each["row"] for each in done):
            continue
        started = time.perf_counter()
        try:
            done.append(measured(row, backbone, stream, seeds, options.epochs))
        except UserError as reason:
            print(f"{row}: {reason}")
            continue
        write_text(table, as_csv(done))
        print(*done[-1].values(), f"({time.perf_counter() - started:.0f} s)", flush=True)
    title = f"Ten classes of CIFAR-100, {options.epochs} epochs, each module with its own recipe"
    label = "bytes that the module is stored in, without the head"
    picture = scatter(done, over="stored_bytes", title=title, below="one seed", label=label)
    picture.save(options.out / "accuracy_over_bytes.png")


def ten_classes(data_dir: Path, train_per_class: int, seeds: Seeds) -> TaskStream:
    """Return the first ten classes of CIFAR-100 as a stream of one task."""
    stream = cifar100(data_dir, seeds, train_per_class=train_per_class)
    return dataclasses.replace(stream, tasks=stream.tasks[:1])


def measured(
    row: str, backbone: Backbone, stream: TaskStream, seeds: Seeds, epochs: int
) -> dict[str, object]:
    """Train one row from the pre-trained backbone and return what the table says of it."""
    name, _, settings = row.partition(":")
    chosen = dict(item.split("=") for item in settings.split(",") if item)
    recipe = build(petl.get(name), "petl", chosen)
    batcher = Batcher(stream.tasks[0].train.images, backbone.preprocessing, "none", torch.device("cpu"))
    share, strategy = trained(recipe, backbone, stream, batcher, seeds, epochs)
    attached = module_of(strategy)
    images = batcher.test_batch(stream.tasks[0].test.rows[:32])
    facts = {
        "row": row,
        "accuracy": round(100 * share, 1),
        "parameters": attached.num_parameters,
        "trained_bytes": stored_bytes({"petl": attached})["petl"],
        "stored_bytes": packed_bytes(attached),
        "training": round(slower_training(attached, images), 2),
        "inference": round(slowdown(attached, images, rounds=7), 2),
        "merged": merged_slowdown(attached, images),
    }
    attached.detach()
    return facts


def trained(
    recipe: Petl, backbone: Backbone, stream: TaskStream, batcher: Batcher, seeds: Seeds, epochs: int
) -> tuple[float, Strategy]:
    """Return the test accuracy after the epochs, and the strategy that learnt."""
    strategy = build(
        strategies.get("naive"), "strategy", {"epochs": epochs, "batch_size": 64, **recipe.recipe}
    )
    strategy.setup(backbone, recipe, seeds)
    return accuracy(predictions(strategy, stream, batcher, seeds)[-1]), strategy


def module_of(strategy: Strategy) -> Attached:
    """Return the module that a strategy trains."""
    (attached,) = (part for part in strategy.parts().values() if isinstance(part, Attached))
    return attached


def slower_training(attached: Attached, images: torch.Tensor, rounds: int = 7) -> float:
    """Return the time of forward and backward by that of linear probing on the same images."""
    head = torch.nn.Linear(attached.backbone.width, 10)
    labels = torch.zeros(len(images), dtype=torch.long)

    def step(*, enabled: bool) -> None:
        attached.enabled = enabled
        attached.train(enabled)
        F.cross_entropy(head(attached.backbone(images)), labels).backward()

    ratio = ratio_of_times(lambda: step(enabled=True), lambda: step(enabled=False), rounds=rounds)
    attached.enabled = True
    attached.eval()
    return ratio


@torch.inference_mode()
def merged_slowdown(attached: Attached, images: torch.Tensor, rounds: int = 14) -> float | str:
    """Return the time of inference, merged, by the bare backbone's; empty if the module cannot merge."""
    if not attached.petl.mergeable:
        return ""
    backbone = attached.backbone
    attached.merge()
    merged = copy.deepcopy(backbone)
    attached.unmerge()
    attached.enabled = False
    ratio = ratio_of_times(
        lambda: float(merged(images).sum()), lambda: float(backbone(images).sum()), rounds=rounds
    )
    attached.enabled = True
    return round(ratio, 2)


if __name__ == "__main__":
    main()
