"""Learn CIFAR-100 in a benchmark: what its user is asked for, the stream, and what is predicted of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from platformdirs import user_cache_path

from clbench import streams
from clbench.data.batches import Batcher
from clbench.data.feature_cache import FeatureCache
from clbench.evaluate.meter import Meter
from clbench.runs.evaluator import Columns
from clbench.runs.loop import Loop
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.streams import Places, TaskStream


def questions(documentation: str, *, network: str = "", **numbers: float) -> argparse.ArgumentParser:
    """Return a parser that asks for the folder of CIFAR-100 and for numbers, given with their defaults.

    It asks for the weights of ``network``, too, where one is named.
    """
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    if network:
        parser.add_argument("--weights", default="default", help=f"file of {network}'s weights")
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser


def cifar100(data_dir: Path, seeds: Seeds, **options: object) -> TaskStream:
    """Return CIFAR-100 as a stream with these options, without augmentation."""
    loader = streams.get("split-cifar100")(augment="none", **options)
    return loader.build("split-cifar100", Places(data_dir, user_cache_path("clbench")), seeds)


def ten_tasks(options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Return the sections of a run on CIFAR-100 in ten tasks, and on ViT-Ti, as the options have them."""
    stream = {
        "name": "split-cifar100",
        "tasks": "10",
        "order": "1993",
        "validation_rate": 0.0,
        "augment": "none",
        "train_per_class": options.train_per_class,
        "test_per_class": options.test_per_class,
    }
    backbone = {
        "name": "vit_tiny_patch16_224",
        "weights": options.weights,
        "image_size": options.image_size,
    }
    return {"stream": stream, "backbone": backbone}


def predictions(
    strategy: Strategy,
    stream: TaskStream,
    batcher: Batcher,
    seeds: Seeds,
    cache: FeatureCache | None = None,
) -> list[Columns]:
    """Learn a stream, for which the strategy is set up; return what is predicted after each task learnt."""
    after: list[Columns] = []

    def log(_: int, columns: Columns | None) -> list[float]:
        if columns is not None:  # a joint learner waits for the last task
            after.append(columns)
        return []

    Loop(strategy, stream, batcher, seeds, Meter(batcher.device), log=log, cache=cache).run()
    return after


def accuracy(columns: Columns) -> float:
    """Return the share of predictions that are right."""
    return float((columns["prediction"] == columns["label"]).mean())
