"""Measure every module on one backbone: parameters, bytes, added FLOPs, and the time of inference."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clbench import petl
from clbench.backbones.backbone import Backbone
from clbench.errors import UserError
from clbench.evaluate.costs import stored_bytes
from clbench.evaluate.flops import count_flops
from clbench.petl.attached import Attached
from clbench.quant.packed import packed_bytes
from clbench.seeds import Seeds

PIXELS = 32 * 32 * 32  # that a timed batch holds, about


@dataclass(frozen=True)
class Surveyed:
    """What one module is and costs on one backbone; ``refusal`` says why where it does not fit."""

    name: str
    identity_at_start: bool
    mergeable: bool
    parameters: int = 0
    stored_bytes: int = 0  # of the tensors as they are trained
    packed_bytes: int = 0  # of the tensors as they are kept
    added_flops: float = 0.0  # of inference, as a share of the bare backbone's
    slowdown: float = 1.0  # inference time by the bare backbone's, in turns with it
    refusal: str = ""


def survey(backbone: Backbone, names: Iterable[str], *, rounds: int = 7) -> Iterator[Surveyed]:
    """Attach each named module with its defaults, measure it, and detach it again."""
    size = backbone.preprocessing.image_size
    shape = (max(2, round(PIXELS / size**2)), 3, size, size)
    images = torch.randn(shape, generator=Seeds(0).generator("survey")).to(backbone.device)
    base = _flops(backbone, images)
    for name in names:
        recipe = petl.get(name)()
        facts = Surveyed(name, recipe.identity_at_start, recipe.mergeable)
        try:
            attached = recipe.attach(backbone, Seeds(0).generator("petl"))
        except UserError as refusal:
            yield dataclasses.replace(facts, refusal=str(refusal))
            continue
        yield dataclasses.replace(
            facts,
            parameters=attached.num_parameters,
            stored_bytes=stored_bytes({"petl": attached})["petl"],
            packed_bytes=packed_bytes(attached),
            added_flops=_flops(backbone, images) / base - 1,
            slowdown=slowdown(attached, images, rounds=rounds),
        )
        attached.detach()


@torch.inference_mode()
def slowdown(attached: Attached, images: Tensor, *, rounds: int) -> float:
    """Return the time of inference with the module by that without, the median of interleaved pairs."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds + 1):
        for on in (True, False) if number % 2 else (False, True):
            attached.enabled = on
            seconds = _seconds(attached.backbone, images)
            if number:  # the first round warms up
                times[on].append(seconds)
    attached.enabled = True
    return statistics.median(on / off for on, off in zip(times[True], times[False], strict=True))


def _seconds(backbone: Backbone, images: Tensor) -> float:
    start = time.perf_counter()
    float(backbone(images).sum())  # waits for an accelerator
    return time.perf_counter() - start


def _flops(backbone: Backbone, images: Tensor) -> int:
    return count_flops(lambda: backbone(images))
