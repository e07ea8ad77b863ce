"""Measure what it saves to compute frozen features once: ten tasks with the feature cache, and without.

    python benchmarks/feature_cache.py --data-dir DIR --weights vit_tiny_patch16_224.safetensors

DIR holds CIFAR-100. A run learns ten tasks and evaluates all classes seen after each. Without the cache (as
with ``run.exact``) the features of the training images are computed for every task and those of the test
images for every evaluation; with it, each image's once. The two take turns in one process, the cache being
empty at the start of each turn, and the median of the ratios of their times is given: for each method, and
for all of them in a row, as in a study, where the methods share the features. The last lines are the time of
a run in another class order on the features that are there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from cifar100 import accuracy, cifar100, predictions, questions

from clbench import backbones, petl, strategies
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher
from clbench.data.feature_cache import FeatureCache
from clbench.evaluate.timing import ratio_of_times
from clbench.options import build
from clbench.seeds import Seeds
from clbench.streams import TaskStream

METHODS = {
    "simplecil": {},
    "slda": {},
    "ranpac": {"phase1": False, "projection": 2000},
}


def main() -> None:
    """Print the ratios, then the seconds in another class order."""
    counts = {"image_size": 96, "train_per_class": 20, "test_per_class": 10, "rounds": 3}
    parser = questions(__doc__, network="the backbone", **counts)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    options = parser.parse_args()
    made = BackboneOptions(weights=options.weights, image_size=options.image_size)
    backbone = backbones.create(options.backbone, made)
    study = Study(backbone, ten_tasks(options, order="natural"))
    count = [sum(len(vars(task)[part]) for task in study.stream.tasks) for part in ("train", "test")]
    print(f"{options.backbone}, {options.image_size} px, {count[0]} training and {count[1]} test images")
    for names in [*([name] for name in METHODS), list(METHODS)]:
        study.compare(names, options.rounds)
    cache = study.empty_cache()
    study.run(list(METHODS), cache)
    again = Study(backbone, ten_tasks(options, order="1993"))
    for name in METHODS:
        started, known = time.perf_counter(), again.num_encoded
        share = again.run([name], cache)
        seconds = time.perf_counter() - started
        print(
            f"{name:28s} another class order {seconds:.2f} s, {again.num_encoded - known} images encoded,"
            f" accuracy {share:.1%}"
        )


def ten_tasks(options: argparse.Namespace, order: str) -> TaskStream:
    """Return CIFAR-100 in ten tasks, in a class order; the images are the same in each."""
    counts = {"train_per_class": options.train_per_class, "test_per_class": options.test_per_class}
    return cifar100(options.data_dir, Seeds(0), order=order, **counts)


class Study:
    """Methods on one stream and one backbone, which counts the images that it encodes."""

    def __init__(self, backbone: Backbone, stream: TaskStream) -> None:
        """Look at every batch that the backbone encodes."""
        self.backbone = backbone
        self.stream = stream
        images = stream.tasks[0].train.images
        self.batcher = Batcher(images, backbone.preprocessing, "none", torch.device("cpu"))
        self.num_encoded = 0
        backbone.register_forward_pre_hook(lambda _, inputs: self._count(len(inputs[0])))

    def compare(self, names: Sequence[str], rounds: int) -> None:
        """Print the time without the cache by that with it."""
        encoded = {}

        def learn(kind: str, cache: FeatureCache | None) -> None:
            before = self.num_encoded
            self.run(names, cache)
            encoded[kind] = self.num_encoded - before

        ratio = ratio_of_times(
            lambda: learn("without", None), lambda: learn("with", self.empty_cache()), rounds=rounds
        )
        counts = f"{encoded['without']} against {encoded['with']} images encoded"
        print(f"{', '.join(names):28s} {ratio:.2f}x, {counts}", flush=True)

    def empty_cache(self) -> FeatureCache:
        """Return a cache in memory that knows nothing."""
        return FeatureCache(self.batcher, batch_size=256)

    def run(self, names: Sequence[str], cache: FeatureCache | None) -> float:
        """Learn and evaluate all tasks with each method; return the last one's final accuracy."""
        for name in names:
            strategy = build(strategies.get(name), "strategy", METHODS[name])
            strategy.setup(self.backbone, petl.get("linear")(), Seeds(0))
            after = predictions(strategy, self.stream, self.batcher, Seeds(0), cache)
            strategy.parts()["petl"].detach()
        return accuracy(after[-1])

    def _count(self, num_images: int) -> None:
        self.num_encoded += num_images


if __name__ == "__main__":
    main()
