"""Measure whole learners whose weights are of few bits: the time of one image, images a second, and energy.

    python benchmarks/low_bit_learners.py [--networks vit_tiny_patch16_224] [--threads 1 2]

``simplecil`` learns the digits, enlarged, on a network with random weights; it then predicts as it was
learnt, in float32, and as each variant, in turns. Images are prepared each time. Joules are those of the
whole processor, where it counts them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tables import Row, as_csv

import clbench
from clbench.deploy.learner import Learner
from clbench.evaluate.energy import Energy
from clbench.files import write_text
from clbench.records.resolving import resolve
from clbench.runs.line import execute
from clbench.streams import Places

NETWORKS = ("vit_tiny_patch16_224", "vit_base_patch16_224")
VARIANTS = tuple(f"rtn:bits={bits},group=64" for bits in (8, 4, 3, 2, 1))
BATCHES = (1, 16)  # images
Ask = Callable[[NDArray[np.uint8]], object]


def main() -> None:
    """Print and write a row for each network, number of threads, batch and form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("low_bit_learners.csv"))
    options = parser.parse_args()
    rows: list[Row] = []
    for network in options.networks:
        forms = forms_of(learnt(network))
        for threads in options.threads:
            torch.set_num_threads(threads)
            for batch in BATCHES:
                for row in measured(forms, batch, options.rounds):
                    rows.append({"network": network, "threads": threads, "images": batch, **row})
                    print(*rows[-1].values(), flush=True)
    write_text(options.out, as_csv(rows))


def learnt(network: str) -> Learner:
    """Return a learner on a network with random weights, at 224 pixels."""
    stream = {"name": "split-digits", "tasks": "5", "train_per_class": 1, "test_per_class": 1}
    spec = resolve(
        {
            "stream": stream,
            "strategy": {"name": "simplecil"},
            "backbone": {"name": network, "weights": "none"},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        return clbench.load(execute(spec, out=Path(folder), places=Places(None, Path(folder))).path)


def forms_of(learner: Learner) -> dict[str, Ask]:
    """Return what is asked: the learner, and its variants."""
    return {"float32": learner.predict, **{name: learner.variant(name).predict for name in VARIANTS}}


def measured(forms: dict[str, Ask], batch: int, rounds: int) -> list[Row]:
    """Return the median time of each form, in turns, and the energy of all its turns."""
    images = np.random.default_rng(0).integers(0, 256, size=(batch, 224, 224, 3), dtype=np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    joules: dict[str, float | None] = dict.fromkeys(forms)
    for number in range(rounds + 1):
        for name, ask in forms.items():
            energy, start = Energy(torch.device("cpu")), time.perf_counter()
            ask(images)
            taken = time.perf_counter() - start
            energy.read()
            if number:  # the first round warms up
                seconds[name].append(taken)
                found = energy.joules["cpu"]
                joules[name] = None if found is None else (joules[name] or 0.0) + found
    plain = statistics.median(seconds["float32"])
    rows: list[Row] = []
    for name, taken in seconds.items():
        median, spent = statistics.median(taken), joules[name]
        rows.append(
            {
                "form": name,
                "milliseconds": round(median * 1e3, 1),
                "images_a_second": round(batch / median, 2),
                "speed": round(plain / median, 2),
                "joules_an_image": "" if spent is None else round(spent / rounds / batch, 3),
            }
        )
    return rows


if __name__ == "__main__":
    main()
