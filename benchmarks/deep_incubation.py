"""Measure Deep Incubation against end-to-end training of the same network, at the same total cost.

    python benchmarks/deep_incubation.py trained --data mini-imagenet-32px.npz --out incubation

A Vision Transformer of 8 blocks, divided into 4 modules, learns the images of the file from random weights,
by incubation and, for as many operations, end to end; from all training images, from half and from a quarter
of each class. Written down are the accuracy on the test images, which chose nothing, before and after
fine-tuning; that of modules put together that were incubated in different meta models; the operations one
after another and on the critical path. ``wall`` measures the time with one process and with two, of one
thread each, on few steps. ``learners`` compares what strategies make of both networks on CIFAR-100, which is
in DATA_DIR. Rows that are in ``--out`` are left as they are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save
from tables import Row, as_csv, finished, known_rows
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from clbench.backbones.architecture import Architecture
from clbench.backbones.backbone import Preprocessing
from clbench.data.tasks import Places
from clbench.files import write_bytes, write_text
from clbench.pretrain.asked import asked
from clbench.pretrain.course import Course
from clbench.pretrain.incubation import WHOLE, Incubating
from clbench.pretrain.learning import pretrain
from clbench.pretrain.materials import gathered
from clbench.records.resolving import resolve
from clbench.report.columns import values_of

BACKBONE = f"{__file__}:ViT8"
SHARES = {100: 200, 50: 100, 25: 50}  # % of the images, and how many of each class those are
SEEDS = (0, 1, 2)
COMMON = {"augment": "rrc-flip", "least_area": 0.35, "warm_up": 1.0}
CIFAR = {"name": "split-cifar100", "tasks": "10", "order": "1993", "validation_rate": 0.0}
STRATEGIES = ("naive", "lae-adapter", "simplecil")
EPOCHS = {"meta_epochs": 8, "module_epochs": 4, "epochs": 4}
COLUMNS = (
    *("share", "seed", "method", "epochs", "accuracy", "assembled"),
    *("flops", "critical", "activations", "activations whole"),
)
FEW = {"meta_epochs": 1, "module_epochs": 1, "epochs": 1}


class ViT8(Architecture):
    """Eight blocks of width 64 on 4 x 4 patches of an image of 32 pixels."""

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        network: nn.Module = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=64, depth=8, num_heads=4, num_classes=0
        )
        return network

    def published(self) -> tuple[nn.Module, str]:
        """Return it with random weights: there are no others."""
        return self.build(), "random"

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return 32 pixels a side in [-1, 1]."""
        half = (0.5, 0.5, 0.5)
        return Preprocessing(image_size=32, mean=half, std=half, crop=1.0, interpolation="bilinear")


def begun(method: str, file: Path, share: int, seed: int, **options: Any) -> Course:
    """Return a course at its beginning."""
    stream = {"train_per_class": SHARES[share], "validation_rate": 0}
    sections = {"pretrain": {**COMMON, **options}, "stream": stream}
    wanted = asked(method, backbone=BACKBONE, stream=f"npz:{file}", sections=sections, seed=seed)
    return wanted.made_method().begin(gathered(wanted, Places()))


def whole(course: Course) -> dict[str, Any]:
    """Follow a course to its end and return what is examined."""
    for index in range(course.num_steps):
        course.step(index)
    return course.examined()


def incubated(file: Path, out: Path, share: int, seed: int) -> Row:
    """Incubate; keep the modules, and return a row."""
    course = cast("Incubating", begun("incubation", file, share, seed, **EPOCHS))
    examined = whole(course)
    for name in course.modules:
        tensors = {each: tensor.contiguous() for each, tensor in course.results[name].items()}
        write_bytes(kept(out, share, seed, name), save(tensors))
    stages = examined["stages"]
    return {
        "accuracy": examined["test"]["accuracy"],
        "assembled": examined["assembled"]["test"]["accuracy"],
        "flops": examined["cost"]["flops"]["sequential"],
        "critical": examined["cost"]["flops"]["critical_path"],
        "activations": max(stages[name]["activation_bytes"] for name in course.modules),
        "activations whole": stages[WHOLE]["activation_bytes"],
    }


def end_to_end(file: Path, share: int, seed: int, flops: float) -> Row:
    """Train the whole at once for as many operations, to the nearest epoch, and return a row."""
    course = begun("end-to-end", file, share, seed, epochs=1)
    course.step(0)
    an_epoch = course.examined()["stages"]["whole"]["flops"] * course.num_steps
    epochs = max(1, round(flops / an_epoch))
    examined = whole(begun("end-to-end", file, share, seed, epochs=epochs))
    stage = examined["stages"]["whole"]
    return {
        "epochs": epochs,
        "accuracy": examined["test"]["accuracy"],
        "flops": stage["flops"],
        "critical": stage["flops"],
        "activations whole": stage["activation_bytes"],
    }


def mixed(file: Path, out: Path, share: int, seed: int) -> Row:
    """Put modules together that were incubated in different meta models, and return a row."""
    course = cast("Incubating", begun("incubation", file, share, seed, **EPOCHS))
    for place, name in enumerate(course.modules):
        other = SEEDS[(SEEDS.index(seed) + place) % len(SEEDS)]
        course.results[name] = load_file(kept(out, share, other, name))
    found = course.materials.held_out(course.network(WHOLE).accuracy)
    return {"assembled": found["test"]["accuracy"]}


def kept(out: Path, share: int, seed: int, name: str) -> Path:
    """Return where the modules of an incubation lie."""
    return out.with_name(f"{out.name}-{share}-{seed}-{name.replace(' ', '-')}.safetensors")


def compared(file: Path, out: Path, data_dir: Path) -> None:
    """Print what learners of ten tasks of CIFAR-100 make of both networks, trained on all images, seed 0."""
    incubation = out.with_name(f"{out.name}-incubation.safetensors")
    epochs = int(str(Table(out.with_suffix(".csv")).row(100, 0, "end-to-end")["epochs"]))
    whole = out.with_name(f"{out.name}-end-to-end.safetensors")
    for method, target, own in (
        ("incubation", incubation, EPOCHS),
        ("end-to-end", whole, {"epochs": epochs}),
    ):
        if not target.exists():
            sections = {"pretrain": {**COMMON, **own}, "stream": {"validation_rate": 0}}
            pretrain(asked(method, backbone=BACKBONE, stream=f"npz:{file}", sections=sections), target)
        for strategy in STRATEGIES:
            sections = {
                "stream": CIFAR,
                "strategy": {"name": strategy},
                "backbone": {"name": BACKBONE, "weights": str(target)},
            }
            record = finished(resolve(sections), out.with_name(f"{out.name}-runs"), data_dir)
            print(method, strategy, f"{100 * values_of(record)['accuracy']:.1f} %", flush=True)


def wall(file: Path, out: Path) -> None:
    """Print the seconds of a short incubation with one process and with two."""
    for workers in (1, 2):
        target = out.with_name(f"{out.name}-wall-{workers}.safetensors")
        target.unlink(missing_ok=True)
        target.with_suffix(".json").unlink(missing_ok=True)
        sections = {
            "pretrain": {**COMMON, **FEW, "module_epochs": 4, "workers": workers, "threads": 1},
            "stream": {"validation_rate": 0},
        }
        wanted = asked("incubation", backbone=BACKBONE, stream=f"npz:{file}", sections=sections)
        started = time.perf_counter()
        pretrain(wanted, target)
        print(f"{workers} process(es): {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("trained", "wall", "learners"))
    parser.add_argument("--data", type=Path, required=True, help="an .npz file of images of 32 pixels")
    parser.add_argument("--data-dir", type=Path, help="where CIFAR-100 lies, for learners")
    parser.add_argument("--out", type=Path, required=True, help="rows go to OUT.csv, modules beside it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "wall":
        wall(options.data, options.out)
    elif options.what == "learners":
        compared(options.data, options.out, options.data_dir)
    else:
        trained(options.data, options.out)


def trained(file: Path, out: Path) -> None:
    """Train all networks that the table does not have yet."""
    table = Table(out.with_suffix(".csv"))
    for share in SHARES:
        for seed in SEEDS:
            table.fill(share, seed, "incubation", partial(incubated, file, out, share, seed))
            flops = float(str(table.row(share, seed, "incubation")["flops"]))
            table.fill(share, seed, "end-to-end", partial(end_to_end, file, share, seed, flops))
    for share in SHARES:
        for seed in SEEDS:
            table.fill(share, seed, "mixed", partial(mixed, file, out, share, seed))


class Table:
    """Rows in a file, each made once."""

    def __init__(self, file: Path) -> None:
        """Read the rows that are there."""
        self.file, self.rows = file, known_rows(file)

    def row(self, share: int, seed: int, method: str) -> Row:
        """Return a row that is there."""
        return next(
            row
            for row in self.rows
            if (str(row["share"]), str(row["seed"]), row["method"]) == (str(share), str(seed), method)
        )

    def fill(self, share: int, seed: int, method: str, make: Callable[[], Row]) -> None:
        """Make a row, print it and keep it, unless it is there."""
        with suppress(StopIteration):
            self.row(share, seed, method)
            return
        own = {"share": share, "seed": seed, "method": method, **make()}
        self.rows.append({column: own.get(column, "") for column in COLUMNS})
        write_text(self.file, as_csv(self.rows))
        print(own, flush=True)


if __name__ == "__main__":
    main()
