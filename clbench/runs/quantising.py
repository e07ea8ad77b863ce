"""Quantise the backbone that a run learns on, once, before the first task."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clbench import quant
from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher
from clbench.data.samples import Samples
from clbench.data.tasks import TaskStream
from clbench.errors import UserError
from clbench.options import build
from clbench.outside.mistakes import explained
from clbench.quant import Quantiser
from clbench.quant.files import from_bytes
from clbench.quant.quantised import Quantised
from clbench.records.spec import Part, RunSpec
from clbench.seeds import Seeds

FILE = "quant.safetensors"  # of a record


class CalibrationError(UserError, ValueError):
    """Images that are too few to calibrate on."""


def form_of(
    spec: RunSpec, backbone: Backbone, stream: TaskStream, seeds: Seeds, known: bytes | None
) -> Quantised | None:
    """Quantise the backbone, if the spec says so: as is ``known``, or on images of the first task."""
    if spec.quant is None:
        return None
    if known is not None:
        return quantised_as_before(spec.quant, backbone, known, FILE)
    samples = stream.tasks[0].train
    batcher = Batcher(samples.images, backbone.preprocessing, stream.augment, backbone.device)
    return quantised(spec.quant, backbone, samples, batcher, seeds)


def quantised(
    part: Part, backbone: Backbone, samples: Samples, batcher: Batcher, seeds: Seeds, *position: int
) -> Quantised:
    """Return a backbone's low-bit form, calibrated on some of the samples, for good.

    What is drawn depends on the seed and the position alone.
    """
    quantiser = quantiser_of(part)
    images = calibration_images(part.name, quantiser.num_images, samples, batcher, seeds, *position)
    with explained(quantiser):
        form = quantiser.quantise(backbone, images, seeds.generator("quant", *position))
    form.settle()
    return form


def quantised_as_before(part: Part, backbone: Backbone, data: bytes, source: str) -> Quantised:
    """Return the form that was kept in a file's bytes, for good."""
    form = from_bytes(data, backbone, quantiser_of(part), source)
    form.settle()
    return form


def quantiser_of(part: Part) -> Quantiser:
    """Return the quantiser that a spec names."""
    return build(quant.get(part.name), "quant", part.options)


def calibration_images(
    name: str, number: int, samples: Samples, batcher: Batcher, seeds: Seeds, *position: int
) -> Tensor:
    """Draw so many of the samples' images, in the test transform: (number, 3, S, S)."""
    if number > len(samples):
        raise CalibrationError(
            f"{name} asks for {number} calibration images, and there are {len(samples)} to draw them from;"
            f" fewer: images={len(samples)}"
        )
    chosen = torch.randperm(len(samples), generator=seeds.generator("calibration", *position))[:number]
    return batcher.test_batch(samples.rows[np.sort(chosen.numpy())])
