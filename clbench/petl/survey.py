"""Measure every module on one backbone: parameters, bytes, added FLOPs, and the time of inference."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clbench import petl
from clbench.backbones.backbone import Backbone
from clbench.errors import UserError
from clbench.evaluate.costs import stored_bytes
from clbench.evaluate.flops import count_flops
from clbench.evaluate.timing import ratio_of_times
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

    def infer(*, enabled: bool) -> None:
        attached.enabled = enabled
        float(attached.backbone(images).sum())  # waits for an accelerator

    ratio = ratio_of_times(lambda: infer(enabled=True), lambda: infer(enabled=False), rounds=rounds)
    attached.enabled = True
    return ratio


def _flops(backbone: Backbone, images: Tensor) -> int:
    return count_flops(lambda: backbone(images))
