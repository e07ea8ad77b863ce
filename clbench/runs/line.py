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
from clbench.evaluate.costs import bytes_by_kind, count_parameters, packed_bytes, stored_bytes
from clbench.evaluate.meter import Meter
from clbench.evaluate.results import Results
from clbench.options import build
from clbench.records.environment import environment
from clbench.records.former_sources import is_former
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.spec import RunSpec
from clbench.report import write_figures
from clbench.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from clbench.runs.evaluator import Columns
from clbench.runs.loop import BEFORE, Loop
from clbench.runs.needs import refuse_impossible, refuse_unknown_classes, refuse_waiting
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
        return {
            "stream": self.stream.digest,
            "weights": self.backbone.weights_digest,
            "strategy_source": source_digest(type(self.strategy)),
        }


def source_digest(strategy: type[Strategy]) -> str:
    """Return the SHA-256 of the files that a strategy is read from."""
    files = source_files(Path(inspect.getfile(strategy)))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def is_same_source(digest: str, strategy: type[Strategy]) -> bool:
    """Tell whether a record with this hash was made by the strategy as it is, or as good as is."""
    return digest == source_digest(strategy) or is_former(digest, strategy.__module__)


def prepare(spec: RunSpec, places: Places) -> Parts:
    """Make every component that a spec names."""
    seeds = Seeds(spec.run.seed)
    device = torch.device(spec.run.device)
    loader = build(streams.get(spec.stream.name), "stream", spec.stream.options)
    stream = loader.build(spec.stream.name, places, seeds)
    options = build(backbones.BackboneOptions, "backbone", spec.backbone.options)
    backbone = backbones.create(spec.backbone.name, options, seed=seeds.derive("weights")).to(device)
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
    places = places or Places()
    parts = prepare(spec, places)
    record = Record.create(Path(out), spec)
    record.write_text("command.txt", command + "\n")
    record.write_json("environment.json", environment())
    record.write_json("hashes.json", parts.hashes())
    record.event("started")
    _finish(record, parts, progress or Progress(), places, checkpoint=None)
    return record


def resume(folder: Path | str, *, places: Places | None = None, progress: Progress | None = None) -> Record:
    """Go on with a run from its newest whole checkpoint; a finished one is returned as it is."""
    record = Record.open(Path(folder))
    if record.is_finished:
        return record
    places = places or Places()
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
    _finish(record, parts, progress or Progress(), places, checkpoint)
    return record


def _finish(
    record: Record, parts: Parts, progress: Progress, places: Places, checkpoint: Checkpoint | None
) -> None:
    """Run the loop to its end and write down what came of it."""
    stream, run = parts.stream, record.spec.run
    meter = Meter(parts.device)
    batcher = Batcher(
        stream.tasks[0].train.images, parts.backbone.preprocessing, stream.augment, parts.device
    )
    cache = FeatureCache(
        batcher,
        batch_size=run.eval_batch_size,
        folder=places.cache_dir / "features",
        precision=run.precision,
        account=meter.encoded,
        account_read=meter.reused,
    )
    loop = Loop(
        parts.strategy,
        stream,
        batcher,
        parts.seeds,
        meter,
        run,
        progress,
        save=lambda state: save_checkpoint(record.path / "checkpoint", state),
        log=lambda task, columns: _log(record, parts, loop, probe, task, columns),
        cache=None if run.exact else cache,
    )
    images = ProbeSet.draw(loop.evaluator, parts.seeds, run.probe_images) if run.probe_images else None
    probe = Probe(parts.backbone, loop.evaluator, images) if images else None
    progress.run_started(record.spec, record.path, len(stream.tasks))
    loop.run(checkpoint)
    record.write_json("costs.json", {**_held(parts, meter), **meter.to_dict()})
    write_figures(record)
    metrics = evaluate.compute(record.results())
    record.write_json("metrics.json", metrics)  # the last file: it means "finished"
    record.event("finished")
    progress.run_finished(record.path)


def _held(parts: Parts, meter: Meter) -> dict[str, dict[str, int]]:
    """Return what a strategy holds now: parameters, and bytes by part and by kind."""
    held = parts.strategy.parts()
    parameters = count_parameters(parts.backbone, held)
    # a module that happens to be frozen when a task ends was trainable all the same
    parameters["trainable"] = meter.num_trainable or parameters["trainable"]
    return {
        "parameters": parameters,
        "stored_bytes": stored_bytes(held),
        "packed_bytes": packed_bytes(held),
        "stored_bytes_by_kind": bytes_by_kind(held),
        "packed_bytes_by_kind": bytes_by_kind(held, packed=True),
    }


def _log(
    record: Record, parts: Parts, loop: Loop, probe: Probe | None, task: int, columns: Columns | None
) -> list[float]:
    """Keep the predictions made after a task; return its row of the accuracy matrix."""
    stream = parts.stream
    if columns is not None:
        after = np.full(len(columns["row"]), task, np.int16)
        record.write_predictions(task, {"after_task": after, **columns})
    if task == BEFORE:
        return []
    if columns is not None:
        record.write_anytime(loop.watch.columns())
        record.write_reliability(loop.evaluator.reliability)
        if probe:
            record.write_representations(task, probe.features())
    loop.meter.task_ended(task, _held(parts, loop.meter))
    results = Results.from_log(record.predictions(), len(stream.tasks))
    matrix = {
        "accuracy": results.accuracy,
        "masked": results.masked,
        "untrained": results.untrained,
        "num_test": [len(each.test) for each in stream.tasks],
        "class_order": stream.class_order,
        "class_names": stream.class_names,
        "classes_of_task": [each.classes for each in stream.tasks],
    }
    record.write_json("matrix.json", matrix)
    accuracies = [float(value) for value in results.accuracy[task, : task + 1]]
    notes = loop.strategy.notes()
    record.event("task finished", task=task, accuracies=accuracies, **({"notes": notes} if notes else {}))
    return accuracies
