"""Measure what merging tokens saves at inference: ToMe against the plain network, beside the work it saves.

    python benchmarks/token_merging.py [--backbones vit_tiny_patch16_224] [--threads 1 2] [--rounds 21]

``speed_up`` is the time of the plain network, with fused attention, by that of the form in the row,
``mac_ratio`` the same of their multiply-adds, and ``share`` how much of this is reached. Official code adds
log size to an attention matrix that it computes explicitly; rows with ``explicit`` attention do so, too. All
forms take turns in one process, in an order that is reversed each round; medians of the rounds are given.
With one thread it is CPU time, which others on the machine disturb least; with more, time on the clock.
Weights are random: times do not depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tables import Row, as_csv
from torch import Tensor

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Switch
from clbench.compress.tome import ToMe
from clbench.devices import processor_name
from clbench.evaluate.flops import count_flops
from clbench.files import write_text

BACKBONES = ("vit_tiny_patch16_224", "vit_base_patch16_224")
REMOVED = (0, 8, 13, 16)
ATTENTION = ("fused", "explicit")
PLAIN = (0, "fused")


def main() -> None:
    """Print and write a row for each network, number of threads, degree and way of attention."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="*", default=BACKBONES)
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("token_merging.csv"))
    options = parser.parse_args()
    print(f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}")
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows: list[Row] = []
    for name in options.backbones:
        backbone = backbones.create(name, BackboneOptions(weights="none", image_size=options.image_size))
        for threads in options.threads:
            torch.set_num_threads(threads)
            clock = time.process_time if threads == 1 else time.perf_counter
            for row in measured(backbone, images, options.rounds, clock):
                rows.append({"backbone": name, "threads": threads, "batch": options.batch_size, **row})
                print(*rows[-1].values(), flush=True)
    write_text(options.out, as_csv(rows))


@torch.inference_mode()
def measured(backbone: Backbone, images: Tensor, rounds: int, clock: Callable[[], float]) -> Iterator[Row]:
    """Yield a row for each degree and way of attention."""
    forms = list(itertools.product(REMOVED, ATTENTION))
    seconds: dict[tuple[int, str], list[float]] = {form: [] for form in forms}
    macs, tokens = {}, {}
    for removed, attention in forms:
        with in_form(backbone, removed, attention):
            macs[removed, attention] = count_flops(lambda: backbone(images)) / 2 / len(images)
            tokens[removed] = backbone.compressed[0].token_counts[-1]
    for number in range(rounds):
        for form in forms if number % 2 else forms[::-1]:
            with in_form(backbone, *form):
                start = clock()
                float(backbone(images).sum())
                seconds[form].append(clock() - start)
    for form in forms:
        pairs = zip(seconds[PLAIN], seconds[form], strict=True)
        speed_up = statistics.median(plain / own for plain, own in pairs)
        mac_ratio = macs[PLAIN] / macs[form]
        yield {
            "removed": form[0],
            "attention": form[1],
            "tokens": tokens[form[0]],
            "gmacs": round(macs[form] / 1e9, 3),
            "images_per_second": round(len(images) / statistics.median(seconds[form]), 2),
            "mac_ratio": round(mac_ratio, 3),
            "speed_up": round(speed_up, 3),
            "share": round(speed_up / mac_ratio, 3),
        }


@contextmanager
def in_form(backbone: Backbone, removed: int, attention: str) -> Iterator[None]:
    """Let the backbone merge so many tokens a block for a while; explicit attention is that of a branch."""
    form = ToMe(removed=removed).compress(backbone)
    sites = [block["attn.logits"] for block in backbone.blocks] if attention == "explicit" else []
    for site in sites:
        site.attached.append((Switch(), Branch()))  # which changes nothing
    try:
        yield
    finally:
        for site in sites:
            site.attached.clear()
        form.detach()


if __name__ == "__main__":
    main()
