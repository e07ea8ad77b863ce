"""Bring a learner into another form: as its run recorded it, or calibrated now."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from clbench.data.batches import Batcher
from clbench.data.continued import without_images
from clbench.data.inputs import Inputs
from clbench.data.tasks import Places, TaskStream
from clbench.deploy.learnt import Learnt
from clbench.deploy.patterns import patterns
from clbench.errors import UserError
from clbench.outside.mistakes import explained
from clbench.outside.reading import read_bytes
from clbench.quant import Quantiser
from clbench.quant.files import from_bytes
from clbench.records.forms import variant_record
from clbench.records.record import Record
from clbench.records.spec import Variant
from clbench.records.variants import variants_of
from clbench.runs.calibration import calibration_images, quantiser_of
from clbench.runs.compressing import FILE as PLUGIN
from clbench.runs.compressing import compressed, plugin_of
from clbench.runs.deployed import Deployed, copied, quantise
from clbench.runs.earlier import earlier_stream
from clbench.runs.quantising import FILE
from clbench.runs.refitting import take_back
from clbench.seeds import Seeds
from clbench.strategies import Strategy


class FormError(UserError, ValueError):
    """A form that a learner cannot be brought into."""


def as_variant(learnt: Learnt, text: str, places: Places) -> Learnt:
    """Return a copy of what was learnt in the form that a text such as ``adalog:bits=4`` names.

    One that the run predicted with is as it was then; any other is calibrated on training images, which are
    looked for in ``places``. FormError or SpecError in one line where that cannot be.
    """
    if learnt.spec.deployed:
        raise FormError(f"{learnt.path} is a variant already: {learnt.spec.deployed.name}")
    variant = _named(learnt, text)
    task = 0 if learnt.history.scenario == "task" else None
    made = copied(
        learnt.backbone,
        learnt.strategy,
        variant.own,
        lambda each: _ask(learnt, each, task),
        compress=partial(compressed, variant.compress, plugin=_plugin(learnt, variant))
        if variant.compress
        else None,
    )
    if variant.quant is not None:
        quantiser = quantiser_of(variant.quant)
        record = _recorded(learnt, variant)
        if record is not None:
            data = read_bytes(record.path / FILE)
            made.form = from_bytes(data, made.backbone, quantiser, str(record.path / FILE))
            made.form.settle()
            if variant.refit:
                _refit(learnt, made, record)
        elif variant.refit:
            raise FormError(f"{text!r}: the run has not come to the end of what it would refit")
        else:
            _calibrate(learnt, made, quantiser, places)
    spec = learnt.spec.model_copy(update={"deployed": variant})
    return replace(
        learnt, spec=spec, backbone=made.backbone, strategy=made.strategy, folded=tuple(made.folded)
    )


def _named(learnt: Learnt, text: str) -> Variant:
    """Return the variant of that name, or one of the run's that is like it."""
    known = learnt.spec.variants
    for each in known:
        if each.name == text:
            return each
    (asked,) = variants_of([text], type(learnt.strategy))
    for each in known:
        if each.model_copy(update={"name": asked.name}) == asked:
            return each
    if asked.refit:
        raise FormError(f"{text!r}: what is refitted is known while a run goes on, and not behind it")
    return asked


def _refit(learnt: Learnt, made: Deployed, record: Record) -> None:
    """Let a copy hold what was learnt anew in its form."""
    with explained(made.strategy):
        made.strategy.forget()
        take_back(made, record.path, without_images(learnt.history))


def _plugin(learnt: Learnt, variant: Variant) -> bytes | None:
    """Return the plug-in of a variant's compressor: as the run has kept it, or as its file is now."""
    if variant.compress is None:
        return None
    files: dict[str, bytes] = {}
    if learnt.path is not None and (learnt.path / "spec.toml").is_file():
        file = variant_record(Record.open(learnt.path), variant).path / PLUGIN
        files = {PLUGIN: read_bytes(file)} if file.is_file() else {}
    return plugin_of(variant.compress, files)


def _recorded(learnt: Learnt, variant: Variant) -> Record | None:
    """Return the record of a variant, if it is of what was learnt last."""
    if learnt.path is None or not (learnt.path / "spec.toml").is_file():
        return None
    record = variant_record(Record.open(learnt.path), variant)
    if not ((record.path / FILE).is_file() and (record.path / "costs.json").is_file()):
        return None
    by_task = record.read_json("costs.json")["by_task"]
    return record if by_task and by_task[-1]["task"] + 1 == learnt.num_tasks else None


def _ask(learnt: Learnt, strategy: Strategy, task: int | None) -> None:
    pixels = patterns(1, learnt.history.height, learnt.history.width)
    batcher = Batcher(pixels, learnt.backbone.preprocessing, "none", learnt.device)
    strategy.predict(Inputs(batcher=batcher, rows=np.zeros(1, np.int64), task=task))


def _calibrate(learnt: Learnt, made: Deployed, quantiser: Quantiser, places: Places) -> None:
    """Choose how values are rounded, on images that the run's own variants would be calibrated on."""
    seeds, size = Seeds(learnt.spec.run.seed), learnt.backbone.preprocessing.image_size
    if quantiser.num_images == 0:
        images = torch.zeros(0, 3, size, size, device=learnt.device)
        quantise(made, quantiser, images, seeds.generator("quant"))
        return
    stream, chapter = _newest_stream(learnt, places), learnt.history.chapters[-1]
    first = stream.tasks[0].train
    drawn = calibration_images(
        quantiser.num_images,
        whose=learnt.spec.run.calibration,
        seen=stream.tasks[: chapter.num_tasks],
        strategy=learnt.strategy,
        batcher=Batcher(first.images, learnt.backbone.preprocessing, stream.augment, learnt.device),
        seeds=seeds,
    )
    quantise(made, quantiser, drawn.images, seeds.generator("quant", drawn.task))


def _newest_stream(learnt: Learnt, places: Places) -> TaskStream:
    """Return the stream that was learnt last; FormError where its images are not there."""
    chapter = learnt.history.chapters[-1]
    stream = earlier_stream(chapter, learnt.class_names, places)
    if stream is None:
        raise FormError(
            f"a quantiser is calibrated on training images, and those of {chapter.stream['name']} are not"
            " there as they were; name their folder with --data-dir, or take a variant that the run recorded"
        )
    return stream
