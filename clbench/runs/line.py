"""Follow the straight line: spec, stream, backbone, module, strategy, loop, record."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from clbench import backbones, evaluate, petl, strategies, streams
from clbench.backbones.backbone import Backbone
from clbench.cards import source_files
from clbench.data.batches import Batcher
from clbench.data.feature_cache import FeatureCache
from clbench.data.tasks import Places, TaskStream
from clbench.errors import UserError
from clbench.evaluate.costs import (
    PhaseClock,
    bytes_by_kind,
    capacity_bytes,
    count_parameters,
    packed_bytes,
    stored_bytes,
)
from clbench.evaluate.matrix_rows import MatrixRows
from clbench.evaluate.meter import Meter
from clbench.options import build
from clbench.records.environment import environment
from clbench.records.former_sources import is_former
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.spec import RunSpec
from clbench.report import write_figures
from clbench.runs.checkpoint import Checkpoint, load_checkpoint, load_ended, save_checkpoint, save_ended
from clbench.runs.evaluator import Columns
from clbench.runs.loop import BEFORE, Loop
from clbench.runs.needs import cautions, refuse_impossible, refuse_unknown_classes, refuse_waiting
from clbench.runs.probe import Probe, ProbeSet
from clbench.seeds import Seeds
from clbench.strategies import Strategy


class ChangedError(UserError, ValueError):
    """What a run was begun with is not what is found now."""


@dataclass(frozen=True)
class Parts:
    """The components of a run, ready to start."""

    stream: TaskStream
    backbone: Backbone
    strategy: Strategy
    seeds: Seeds
    device: torch.device

    def hashes(self) -> dict[str, str]:
        """Return what must be equal for two runs to be the same, or to be compared."""
        files = source_files(Path(inspect.getfile(type(self.strategy))))
        source = b"".join(file.read_bytes() for file in files)
        return {
            "stream": self.stream.digest,
            "weights": self.backbone.weights_digest,
            "strategy_source": hashlib.sha256(source).hexdigest(),
        }


def prepare(spec: RunSpec, places: Places) -> Parts:
    """Make every component that a spec names."""
    seeds = Seeds(spec.run.seed)
    device = torch.device(spec.run.device)
    loader = build(streams.get(spec.stream.name), "stream", spec.stream.options)
    stream = loader.build(spec.stream.name, places, seeds)
    options = build(backbones.BackboneOptions, "backbone", spec.backbone.options)
    seed = seeds.derive("weights")
    backbone = backbones.create(spec.backbone.name, options, seed=seed, folder=places.data_dir).to(device)
    strategy = build(strategies.get(spec.strategy.name), "strategy", spec.strategy.options)
    refuse_impossible(spec.strategy.name, strategy, stream, backbone)
    if spec.run.eval_ahead:
        refuse_unknown_classes(stream)
    if spec.run.step_cost > 1:
        refuse_waiting(stream)
    strategy.setup(backbone, build(petl.get(spec.petl.name), "petl", spec.petl.options), seeds)
    return Parts(stream, backbone, strategy, seeds, device)


def execute(
    spec: RunSpec,
    *,
    out: Path | str = "runs",
    places: Places | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Record:
    """Run a spec from the beginning and return its record, a new folder in ``out``.

    ``progress`` hears of every stage, ``command`` is what was typed to start the run, if anything was.
    """
    places, clock = places or Places(), PhaseClock()
    with clock.phase("start-up"):
        parts = prepare(spec, places)
        record = Record.create(Path(out), spec)
        record.write_text("command.txt", command + "\n")
        record.write_json("environment.json", environment())
        record.write_json("hashes.json", parts.hashes())
        record.event("started")
        for line in _notes(spec, parts):
            record.event("noted", line=line)
    _finish(record, parts, progress or Progress(), places, clock, checkpoint=None)
    return record


def resume(folder: Path | str, *, places: Places | None = None, progress: Progress | None = None) -> Record:
    """Go on with a run from its newest whole checkpoint; a finished one is returned as it is."""
    record = Record.open(Path(folder))
    if record.is_finished:
        return record
    places, clock = places or Places(), PhaseClock()
    with clock.phase("start-up"):
        parts = prepare(record.spec, places)
    begun_with = record.read_json("hashes.json")
    for name, value in parts.hashes().items():
        is_same = begun_with[name] == value or is_former(begun_with[name], type(parts.strategy).__module__)
        if not is_same:
            raise ChangedError(
                f"cannot resume {folder}: its {name.replace('_', ' ')} has changed since it was begun"
            )
    resumable = parts.strategy.resumable
    checkpoint = load_checkpoint(record.path / "checkpoint") if resumable else None
    record.event("resumed", **(vars(checkpoint.position) if checkpoint else {}))
    _finish(record, parts, progress or Progress(), places, clock, checkpoint)
    return record


def _finish(
    record: Record,
    parts: Parts,
    progress: Progress,
    places: Places,
    clock: PhaseClock,
    checkpoint: Checkpoint | None,
) -> None:
    """Run the loop to its end and write down what came of it."""
    meter = Meter(parts.device, clock)
    with meter.phase("start-up"):
        loop = _loop(record, parts, progress, places, meter, is_resumed=checkpoint is not None)
    progress.run_started(record.spec, record.path, len(parts.stream.tasks))
    for line in _notes(record.spec, parts):
        progress.noted(line)
    with meter.phase("other"):
        loop.run(checkpoint)
        with meter.phase("record"):
            record.write_anytime(loop.watch.columns())
        finished = record.remembering()  # the predictions are read once
        with meter.phase("figures"):
            write_figures(finished)
        with meter.phase("metrics"):
            metrics = evaluate.compute(finished.results())
        record.write_json("costs.json", {**_held(parts, meter), **meter.to_dict()})
    record.write_json("metrics.json", metrics)  # the last file: it means "finished"
    record.event("finished")
    progress.run_finished(record.path)


def _loop(
    record: Record, parts: Parts, progress: Progress, places: Places, meter: Meter, *, is_resumed: bool
) -> Loop:
    """Make what learns, and what keeps the record meanwhile."""
    stream, run = parts.stream, record.spec.run
    batcher = Batcher(
        stream.tasks[0].train.images, parts.backbone.preprocessing, stream.augment, parts.device
    )
    cache = FeatureCache(
        batcher,
        batch_size=run.eval_batch_size,
        folder=places.cache_dir / "features",
        precision=run.precision,
        account=meter,
    )
    folder = record.path / "checkpoint"
    loop = Loop(
        parts.strategy,
        stream,
        batcher,
        parts.seeds,
        meter,
        run,
        progress,
        save=lambda state: save_checkpoint(folder, state),
        save_ended=lambda task, ended: save_ended(folder, task, ended),
        load_ended=lambda num_tasks: load_ended(folder, num_tasks),
        cache=None if run.exact else cache,
    )
    images = ProbeSet.draw(loop.evaluator, parts.seeds, run.probe_images) if run.probe_images else None
    probe = Probe(parts.backbone, loop.evaluator, images) if images else None
    log = RunLog(record, parts, loop, probe, MatrixRows(len(stream.tasks)))
    if is_resumed:
        log.read()
    loop.log = log.add
    return loop


def _notes(spec: RunSpec, parts: Parts) -> list[str]:
    """Return what a user should know of the data, the weights and the strategy before the first task."""
    told = [f"caution: {each}" for each in cautions(spec.strategy.name, parts.strategy, parts.stream)]
    return [*parts.stream.notes, *parts.backbone.notes, *told]


def _held(parts: Parts, meter: Meter) -> dict[str, dict[str, int]]:
    """Return what a strategy holds now: parameters, and bytes by part and by kind."""
    held = parts.strategy.parts()
    parameters = count_parameters(parts.backbone, held)
    # a module that happens to be frozen when a task ends was trainable all the same
    parameters["trainable"] = meter.num_trainable or parameters["trainable"]
    return {
        "parameters": parameters,
        "stored_bytes": stored_bytes(held),
        "capacity_bytes": capacity_bytes(held),
        "packed_bytes": packed_bytes(held),
        "stored_bytes_by_kind": bytes_by_kind(held),
        "packed_bytes_by_kind": bytes_by_kind(held, packed=True),
    }


@dataclass(frozen=True)
class RunLog:
    """Keeps what comes of each task."""

    record: Record
    parts: Parts
    loop: Loop
    probe: Probe | None
    rows: MatrixRows

    def read(self) -> None:
        """Count what was predicted before the run was stopped."""
        predictions = self.record.predictions()
        after_task = predictions["after_task"]
        for task in np.unique(after_task).tolist():
            chosen = after_task == task
            self.rows.add(task, {name: values[chosen] for name, values in predictions.items()})

    def add(self, task: int, columns: Columns | None) -> list[float]:
        """Keep the predictions made after a task; return its row of the accuracy matrix."""
        with self.loop.meter.phase("record"):
            if columns is not None:
                after = np.full(len(columns["row"]), task, np.int16)
                self.record.write_predictions(task, {"after_task": after, **columns})
                self.rows.add(task, columns)
            return [] if task == BEFORE else self._add_rest(task, is_evaluated=columns is not None)

    def _add_rest(self, task: int, *, is_evaluated: bool) -> list[float]:
        record, loop = self.record, self.loop
        if is_evaluated:
            record.write_reliability(loop.evaluator.reliability)
            if self.probe:
                record.write_representations(task, self.probe.features())
        loop.meter.task_ended(task, _held(self.parts, loop.meter))
        num_tasks = len(self.parts.stream.tasks)
        if task + 1 == num_tasks or is_landmark(task + 1):
            self._write_matrices()
        accuracies: list[float] = self.rows.accuracy[task, : task + 1].tolist()
        notes = loop.strategy.notes()
        record.event("task finished", task=task, accuracies=accuracies, **({"notes": notes} if notes else {}))
        return accuracies

    def _write_matrices(self) -> None:
        """Write them as they are now; their file grows with the square of the number of tasks."""
        stream = self.parts.stream
        matrix = {
            "accuracy": self.rows.accuracy,
            "masked": self.rows.masked,
            "untrained": self.rows.untrained,
            "num_test": [len(each.test) for each in stream.tasks],
            "class_order": stream.class_order,
            "class_names": stream.class_names,
            "classes_of_task": [each.classes for each in stream.tasks],
        }
        self.record.write_json("matrix.json", matrix)


def is_landmark(number: int) -> bool:
    """Tell whether at most the first three digits of a number in base two are not 0: 1 to 8, 10, 12, 14, 16.

    What grows with the tasks and is written anew at these numbers alone costs a task no more as they grow.
    """
    return number % (1 << max(0, number.bit_length() - 3)) == 0
