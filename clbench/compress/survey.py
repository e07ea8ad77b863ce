"""Measure every compressor on one backbone, degree by degree: tokens, multiply-adds, and the time saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from clbench import compress
from clbench.backbones.backbone import Backbone
from clbench.compress import Compressor
from clbench.compress.compressed import Compressed
from clbench.errors import UserError
from clbench.evaluate.flops import count_flops
from clbench.evaluate.timing import ratio_of_times
from clbench.seeds import Seeds

PIXELS = 32 * 32 * 32  # that a timed batch holds, about


@dataclass(frozen=True)
class Surveyed:
    """What one degree is worth on one backbone; ``refusal`` says why where it does not fit."""

    name: str  # as it is typed: tome:removed=8
    tokens: int = 0  # behind the last block, those in front of the patches included
    macs: float = 0.0  # multiply-adds of an image
    macs_share: float = 1.0  # of the plain backbone's
    speedup: float = 1.0  # the plain backbone's time of inference by that of the degree, in turns with it
    refusal: str = ""


def survey(backbone: Backbone, names: Iterable[str], *, rounds: int = 7) -> Iterator[Surveyed]:
    """Compress by each degree of each named compressor, measure it, and detach it again."""
    images = _images(backbone)
    plain = _macs(backbone, images)
    for name in names:
        degrees = compress.get(name)().degrees(len(backbone.blocks))
        for text, degree in zip(texts(name, degrees), degrees, strict=True):
            try:
                form = degree.compress(backbone)
            except UserError as refusal:
                yield Surveyed(name, refusal=str(refusal))
                break
            macs = _macs(backbone, images)
            yield Surveyed(
                text,
                form.token_counts[-1],
                macs,
                macs / plain,
                speedup(form, backbone, images, rounds=rounds),
            )
            form.detach()


def texts(name: str, degrees: Sequence[Compressor]) -> list[str]:
    """Return what to type for each degree: the options in which the degrees differ."""
    varied = [
        each.name
        for each in fields(degrees[0])
        if len({getattr(degree, each.name) for degree in degrees}) > 1
    ]
    return [_text(name, {option: getattr(degree, option) for option in varied}) for degree in degrees]


@torch.inference_mode()
def speedup(form: Compressed, backbone: Backbone, images: Tensor, *, rounds: int) -> float:
    """Return the time of inference without the form by that with it, the median of interleaved pairs."""

    def infer(*, enabled: bool) -> None:
        form.enabled = enabled
        float(backbone(images).sum())  # waits for an accelerator

    ratio = ratio_of_times(lambda: infer(enabled=False), lambda: infer(enabled=True), rounds=rounds)
    form.enabled = True
    return ratio


def _images(backbone: Backbone) -> Tensor:
    size = backbone.preprocessing.image_size
    shape = (max(2, round(PIXELS / size**2)), 3, size, size)
    return torch.randn(shape, generator=Seeds(0).generator("survey")).to(backbone.device)


def _macs(backbone: Backbone, images: Tensor) -> float:
    return count_flops(lambda: backbone(images)) / 2 / len(images)


def _text(name: str, options: dict[str, object]) -> str:
    written = ",".join(f"{option}={value}" for option, value in options.items())
    return f"{name}:{written}" if written else name
