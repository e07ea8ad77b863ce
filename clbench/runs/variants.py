"""Let a learner also predict in the forms in which it would be deployed, and keep what comes of it.

After a task (or the last one) a copy of the learner is made for each variant and given its form; what it
predicts goes into a record of its own inside the run's. The learner itself is never touched: its predictions
are bit for bit the same with and without variants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clbench import petl
from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher
from clbench.data.feature_cache import FeatureCache
from clbench.data.tasks import Task, TaskStream
from clbench.evaluate.bit_operations import bit_operations
from clbench.evaluate.matrix_rows import MatrixRows
from clbench.evaluate.meter import Meter
from clbench.options import build
from clbench.outside.reading import read_bytes
from clbench.quant.files import to_bytes
from clbench.quant.quantised import Quantised
from clbench.records.forms import variant_record
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.spec import RunSpec, Variant
from clbench.runs.calibration import calibration_images, quantiser_of
from clbench.runs.compressing import FILE as PLUGIN
from clbench.runs.compressing import compressed, compressor_of, plugin_of
from clbench.runs.deployed import Deployed, copied, felt, quantise, quantise_like
from clbench.runs.evaluator import Evaluator
from clbench.runs.quantising import FILE
from clbench.runs.refitting import keep, learn_anew, take_back
from clbench.runs.run_log import held, is_landmark, matrix_of
from clbench.runs.soundness import ScoresError
from clbench.runs.speed import speed
from clbench.seeds import Seeds
from clbench.strategies import Strategy


@dataclass
class VariantLog:
    """What one variant predicted so far."""

    record: Record
    rows: MatrixRows
    meter: Meter
    cache: FeatureCache | None
    plugin: bytes | None = None  # of what compresses its tokens
    known: tuple[str, Quantised, float] | None = field(
        default=None, init=False
    )  # on what, the form, the seconds
    num_calibrated: int = field(default=0, init=False)  # how often
    twin: Deployed | None = field(default=None, init=False)  # that learns anew what is refitted
    by_task: list[dict[str, Any]] = field(default_factory=list, init=False)


class Variants:
    """The variants of one run."""

    def __init__(
        self,
        record: Record,
        learner: tuple[Backbone, Strategy],
        stream: TaskStream,
        batcher: Batcher,
        seeds: Seeds,
        *,
        features: Path | None,
        progress: Progress,
    ) -> None:
        """Know nothing yet; ``features`` is a folder of cached ones, None for a run that keeps none."""
        self.run, self.options = record, record.spec.run
        self.backbone, self.strategy = learner
        self.stream, self.batcher, self.seeds, self.progress = stream, batcher, seeds, progress
        self.logs = [self._log(record, variant, features) for variant in record.spec.variants]

    def read(self) -> None:
        """Go on from what was kept before the run was stopped."""
        for log in self.logs:
            log.rows.read(log.record.predictions())
            if (log.record.path / "costs.json").is_file():
                log.by_task = log.record.read_json("costs.json")["by_task"]
                log.num_calibrated = int(log.by_task[-1]["calibration"]["times"])

    def task_ended(self, seen: Sequence[Task]) -> None:
        """Predict as each variant, now that the last of ``seen`` was learnt."""
        is_last = len(seen) == len(self.stream.tasks)
        is_asked = is_last or self.options.variants == "each"
        for log in self.logs:
            if is_asked:
                self._predict(log, seen, is_last=is_last)
            elif _variant_of(log.record).refit:
                self._refitted(log, _variant_of(log.record), seen)

    def _log(self, record: Record, variant: Variant, features: Path | None) -> VariantLog:
        meter = Meter(self.batcher.device)
        cache = None
        if features is not None:
            looks = variant.quant is not None and quantiser_of(variant.quant).num_images > 0
            is_kept = not looks or self.options.calibration == "first"  # others are of one task alone
            cache = FeatureCache(
                self.batcher,
                batch_size=self.options.eval_batch_size,
                folder=features if is_kept else None,
                precision=self.options.precision,
                account=meter,
            )
            cache.expect_parts([part.rows for task in self.stream.tasks for part in (task.train, task.test)])
        kept = variant_record(record, variant)
        plugin = self._plugin(variant, kept)
        return VariantLog(kept, MatrixRows(len(self.stream.tasks)), meter, cache, plugin)

    def _plugin(self, variant: Variant, kept: Record) -> bytes | None:
        """Return the plug-in of a variant's compressor, which its record keeps from the start."""
        if variant.compress is None:
            return None
        known = {PLUGIN: read_bytes(kept.path / PLUGIN)} if (kept.path / PLUGIN).is_file() else {}
        plugin = plugin_of(variant.compress, known)
        if plugin is not None:
            compressor = compressor_of(variant.compress)
            list(compressor.repairs(self.backbone, plugin, compressor.plugin_file))  # refused now, if at all
        if plugin is not None and not known:
            kept.write_bytes(PLUGIN, plugin)
        return plugin

    def _predict(self, log: VariantLog, seen: Sequence[Task], *, is_last: bool) -> None:
        variant, task = _variant_of(log.record), seen[-1].index
        made = self._refitted(log, variant, seen) if variant.refit else self._made(log, variant, seen)
        evaluator = self._evaluator(made.strategy, log)
        try:
            columns = evaluator.after_task(seen)
        except ScoresError as error:  # too few bits: that ends no run, and gives no number either
            told = f"variant {variant.name} predicts nothing: {error}"
            self.progress.noted(told)
            self.run.event("noted", line=told)
            self._keep(log, made, evaluator, seen, is_last=is_last)
            self._write_matrix(log, task, is_last=is_last)
            return
        after = np.full(len(columns["row"]), task, np.int16)
        log.record.write_predictions(task, {"after_task": after, **columns})
        log.record.write_reliability(evaluator.reliability)
        log.rows.add(task, columns)
        self._write_matrix(log, task, is_last=is_last)
        self._keep(log, made, evaluator, seen, is_last=is_last)
        if log.cache:
            log.cache.save()
            log.cache.forget_unused()
        self.progress.variant_predicted(variant.name, log.rows.accuracy[task, : task + 1].tolist())

    def _write_matrix(self, log: VariantLog, task: int, *, is_last: bool) -> None:
        if is_last or is_landmark(task + 1):
            log.record.write_json("matrix.json", matrix_of(self.stream, log.rows))

    def _made(self, log: VariantLog, variant: Variant, seen: Sequence[Task]) -> Deployed:
        """Return the learner in the form of a variant."""
        inputs = self._evaluator(self.strategy, log).one_image(seen).uncached()
        made = copied(
            self.backbone,
            self.strategy,
            variant.own,
            lambda strategy: strategy.predict(inputs),
            lambda backbone: self._anew(backbone, log.record.spec, seen),
            partial(compressed, variant.compress, plugin=log.plugin) if variant.compress else None,
        )
        if variant.quant is None:
            return made
        quantiser = quantiser_of(variant.quant)
        images = calibration_images(
            quantiser.num_images,
            whose=self.options.calibration,
            seen=seen,
            strategy=self.strategy,
            batcher=self.batcher,
            seeds=self.seeds,
        )
        key = f"{felt(made.backbone)} {images.digest}"
        if log.known and log.known[0] == key:
            quantise_like(made, *log.known[1:])
        else:
            quantise(made, quantiser, images.images, self.seeds.generator("quant", images.task))
            log.num_calibrated += 1
        assert made.form is not None
        log.known = key, made.form, made.seconds
        return made

    def _anew(self, backbone: Backbone, spec: RunSpec, seen: Sequence[Task]) -> Strategy:
        """Return a strategy like the learner's on another backbone, which has begun the same tasks."""
        strategy = build(type(self.strategy), "strategy", spec.strategy.options)
        strategy.setup(backbone, build(petl.get(spec.petl.name), "petl", spec.petl.options), self.seeds)
        for task in seen:
            strategy.begin_task(task)
        return strategy

    def _refitted(self, log: VariantLog, variant: Variant, seen: Sequence[Task]) -> Deployed:
        """Return a twin in the form of a variant that has learnt anew, in this form, all that was seen."""
        twin, size = log.twin, self.options.eval_batch_size
        begun = seen[:-1]
        if twin is None:
            twin = log.twin = self._made(log, variant, seen[:1] if begun else seen)
            twin.strategy.forget()
            if begun:
                take_back(twin, log.record.path, list(begun))
        learn_anew(twin, seen[-1], self.batcher, self.seeds, log.cache, size)
        keep(twin, log.record, seen[-1].index)
        return twin

    def _evaluator(self, strategy: Strategy, log: VariantLog) -> Evaluator:
        return Evaluator(
            strategy,
            self.stream,
            self.batcher,
            log.meter,
            self.progress,
            log.cache,
            precision=self.options.precision,
            batch_size=self.options.eval_batch_size,
        )

    def _keep(
        self, log: VariantLog, made: Deployed, evaluator: Evaluator, seen: Sequence[Task], *, is_last: bool
    ) -> None:
        """Write what the variant takes, and at the end the form itself and how quick it is."""
        task, inputs = seen[-1], evaluator.one_image(seen).uncached()
        folded = [made.backbone.attached[place] for place in made.folded]
        with torch.no_grad():
            bits = bit_operations(made.backbone, lambda: evaluator.predict(inputs))
        costs: dict[str, Any] = {
            **held(made.strategy, made.backbone, log.meter, folded),
            "bit_operations": {"evaluate_per_image": bits},
            "calibration": {"seconds": made.seconds if made.form else None, "times": log.num_calibrated},
        }
        log.meter.task_ended(task.index, costs)
        behind = [each for each in log.by_task if each["task"] < task.index]  # not what is done once more
        log.by_task = [*behind, log.meter.by_task[-1]]
        if is_last:
            float_evaluator = self._evaluator(self.strategy, log)
            rows = np.concatenate([each.test.rows for each in seen])
            costs["speed"] = speed(evaluator, float_evaluator, rows, task.index)
        whole = {**costs, **log.meter.to_dict(), "by_task": log.by_task}
        log.record.write_json("costs.json", whole)
        if made.form is not None:
            log.record.write_bytes(FILE, to_bytes(made.form))


def _variant_of(record: Record) -> Variant:
    variant = record.spec.deployed
    assert variant is not None
    return variant
