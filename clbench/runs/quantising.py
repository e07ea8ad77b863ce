"""Quantise the backbone that a run learns on, once, before the first task."""

from __future__ import annotations

from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher
from clbench.data.samples import Samples
from clbench.data.tasks import TaskStream
from clbench.outside.mistakes import explained
from clbench.quant.files import from_bytes
from clbench.quant.quantised import Quantised
from clbench.records.spec import Part, RunSpec
from clbench.runs.calibration import drawn_of, quantiser_of
from clbench.runs.compressing import all_tokens
from clbench.seeds import Seeds

FILE = "quant.safetensors"  # of a record


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


def quantised(part: Part, backbone: Backbone, samples: Samples, batcher: Batcher, seeds: Seeds) -> Quantised:
    """Return a backbone's low-bit form, calibrated on some of the samples, for good."""
    quantiser = quantiser_of(part)
    images = drawn_of(quantiser.num_images, samples, batcher, seeds.generator("calibration"))
    with explained(quantiser), all_tokens(backbone):
        form = quantiser.quantise(backbone, images, seeds.generator("quant"))
    form.settle()
    return form


def quantised_as_before(part: Part, backbone: Backbone, data: bytes, source: str) -> Quantised:
    """Return the form that was kept in a file's bytes, for good."""
    form = from_bytes(data, backbone, quantiser_of(part), source)
    form.settle()
    return form
