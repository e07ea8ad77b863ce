"""Follow the straight line: spec, components, loop, record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from clbench import petl
from clbench.backbones.ranks import Ranks
from clbench.data.batches import Batcher
from clbench.data.history import History
from clbench.data.tasks import Places, Task
from clbench.evaluate.costs import PhaseClock
from clbench.evaluate.matrix_rows import MatrixRows
from clbench.evaluate.meter import Meter
from clbench.outside.mistakes import explained
from clbench.quant.files import to_bytes
from clbench.records.environment import environment
from clbench.records.histories import history_to
from clbench.records.json_text import to_json
from clbench.records.lock import only_writer, remove_lock
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.spec import RunSpec
from clbench.report import write_figures
from clbench.runs.assembly import assembled
from clbench.runs.backbone import kept_forms
from clbench.runs.budget import fitted
from clbench.runs.checkpoint import (
    Checkpoint,
    Position,
    load_checkpoint,
    load_ended,
    save_checkpoint,
    save_ended,
)
from clbench.runs.compressing import FILE as PLUGIN
from clbench.runs.loop import Loop
from clbench.runs.measured import measure_variants, measured, refuse_unmeasured
from clbench.runs.parts import Parts, notes_of
from clbench.runs.probe import Probe, ProbeSet
from clbench.runs.quantising import FILE
from clbench.runs.resuming import (
    ChangedError,
    clean,
    differences,
    refuse_another_start,
    refuse_missing,
    warn_of,
)
from clbench.runs.returned import LOST
from clbench.runs.run_log import RunLog, held
from clbench.runs.sharing import Begun, From, agree_on, alone, prepared, told_of
from clbench.runs.sources import is_same_source
from clbench.runs.variants import Variants


@dataclass(frozen=True)
class Start:
    """What a run begins with that learns on: what was learnt, and what its record holds from the start."""

    history: History
    checkpoint: Checkpoint
    weights: str | None  # hash of what it was learnt on; None: that is known rounded only
    files: Mapping[str, bytes] = field(default_factory=dict)  # of the record before, by their names


def execute(
    spec: RunSpec,
    *,
    out: Path | str = "runs",
    places: Places | None = None,
    progress: Progress | None = None,
    command: str = "",
    start: Start | None = None,
    ranks: Ranks | None = None,
) -> Record:
    """Run a spec from the beginning and return its record, a new folder in ``out``.

    ``progress`` hears of every stage, ``command`` is what was typed to start the run, if anything was;
    ``start`` is where a run begins that learns on. Of several processes, ``ranks``, the first calls this, and
    the others ``clbench.runs.sharing.follow``.
    """
    places, clock = places or Places(), PhaseClock()
    with clock.phase("start-up"):
        spec, fits = (spec, []) if start else fitted(spec, places)  # what learns on has its memory already
        before, begun_with = (start.history, start.files) if start else (None, {})
        weights = (start.weights if start else None) or ""
        parts = prepared(Begun(spec, before, begun_with, weights), places, ranks)
        if start and start.weights not in (None, parts.backbone.weights_digest):
            raise ChangedError(
                f"cannot learn on: it was learnt on other weights of {spec.backbone.name} (SHA-256"
                f" {str(start.weights)[:12]}...) than {parts.backbone.weights_source} holds"
            )
        found = {
            "environment.json": environment(),
            "hashes.json": parts.hashes(),
            "history.json": history_to(parts.history),
        }
        texts = {name: to_json(value) + "\n" for name, value in found.items()}
        texts["command.txt"] = command + "\n"
        made = {FILE: to_bytes(parts.form)} if parts.form else {}
        if parts.fewer and parts.fewer.plugin is not None:
            made[PLUGIN] = parts.fewer.plugin
        record = Record.create(Path(out), spec, texts, {**begun_with, **made})
    with only_writer(record.path):
        record.event("started")
        told = [*notes_of(spec, parts), *told_of(ranks), *fits]
        for line in told:
            record.event("noted", line=line)
        checkpoint = start.checkpoint if start else None
        _finish(record, parts, progress or Progress(), places, clock, checkpoint, told)
    remove_lock(record.path)
    return record


def resume(
    folder: Path | str,
    *,
    places: Places | None = None,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> Record:
    """Go on with a run from its newest whole checkpoint; a finished one is returned as it is.

    ``ranks`` are as for ``execute``; they may be more or fewer than those that began the run.
    """
    record = Record.open(Path(folder))
    if record.is_finished:
        return record
    with only_writer(record.path):
        if not record.is_finished:  # another process may just have come to its end
            _go_on(record, places or Places(), progress or Progress(), ranks)
    remove_lock(record.path)
    return record


def _go_on(record: Record, places: Places, progress: Progress, ranks: Ranks | None) -> None:
    """Finish a stopped run, unless something is not as it was."""
    clock = PhaseClock()
    with clock.phase("start-up"):
        clean(record)
        refuse_another_start(record)
        history = record.history() if record.spec.parent else None
        kept, begun_with = kept_forms(record.spec, record.path), record.read_json("hashes.json")
        before, weights = history.before_last() if history else None, str(begun_with.get("weights", ""))
        parts = prepared(Begun(record.spec, before, kept, weights), places, ranks)
    for name, value in parts.hashes().items():
        is_source = name == "strategy_source" and is_same_source(begun_with[name], type(parts.strategy))
        if begun_with[name] != value and not is_source:
            raise ChangedError(
                f"cannot resume {record.path}: its {name.replace('_', ' ')} has changed since it was begun"
            )
    resumable = parts.strategy.resumable
    checkpoint = load_checkpoint(record.path / "checkpoint") if resumable else None
    refuse_missing(record, checkpoint.position if checkpoint else Position())
    differs = differences(record)
    warn_of(record, differs)
    where = vars(checkpoint.position) if checkpoint else {}
    record.event("resumed", **where, **({"differs": differs} if differs else {}))
    told = [*notes_of(record.spec, parts), *told_of(ranks)]
    _finish(record, parts, progress, places, clock, checkpoint, told)


def _finish(
    record: Record,
    parts: Parts,
    progress: Progress,
    places: Places,
    clock: PhaseClock,
    checkpoint: Checkpoint | None,
    told: Sequence[str],
) -> None:
    """Run the loop to its end and write down what came of it."""
    meter, ranks = Meter(parts.device, clock), parts.backbone.ranks
    progress.run_started(record.spec, record.path, len(parts.stream.tasks))  # a stop says from now on: resume
    with meter.phase("start-up"):
        if ranks:
            _tell_where(record, checkpoint, ranks)
            meter.whole, meter.in_parts = ranks.whole, ranks.in_parts
        loop = _loop(record, parts, progress, places, meter, is_resumed=checkpoint is not None)
    for line in told:
        progress.noted(line)
    with meter.phase("other"):
        note = LOST if checkpoint else ""
        with explained(parts.strategy, petl.get(record.spec.petl.name), note=note):
            loop.run(checkpoint)
        with meter.phase("record"):
            record.write_anytime(loop.watch.columns())
        finished = record.remembering()  # the predictions are read once
        with meter.phase("figures"):
            write_figures(finished)
        with meter.phase("metrics"):
            metrics, failed = measured(finished)
            failed += measure_variants(record)
        record.write_json("costs.json", {**held(parts.strategy, parts.backbone, meter), **meter.to_dict()})
    record.finish(metrics)
    record.event("finished")
    progress.run_finished(record.path)
    refuse_unmeasured(failed)


def _loop(
    record: Record, parts: Parts, progress: Progress, places: Places, meter: Meter, *, is_resumed: bool
) -> Loop:
    """Make what learns, and what keeps the record meanwhile."""
    stream, run, ranks = parts.stream, record.spec.run, parts.backbone.ranks
    folder = record.path / "checkpoint"

    def save(state: Checkpoint) -> None:
        agree_on(ranks, state)
        save_checkpoint(folder, state)

    loop = assembled(parts, run, places, progress, meter)
    loop.save = save
    loop.save_ended = partial(save_ended, folder)
    loop.load_ended = partial(load_ended, folder)
    images = ProbeSet.draw(loop.evaluator, parts.seeds, run.probe_images) if run.probe_images else None
    probe = Probe(parts.backbone, loop.evaluator, images) if images else None
    log = RunLog(record, parts.strategy, parts.backbone, stream, loop, probe, MatrixRows(len(stream.tasks)))
    if is_resumed:
        log.read()
    loop.log = alone(ranks, log.add)
    if record.spec.variants:
        deploy = _variants(record, parts, loop.batcher, places, progress, is_resumed=is_resumed)
        loop.deploy = alone(ranks, deploy)
    return loop


def _tell_where(record: Record, checkpoint: Checkpoint | None, ranks: Ranks) -> None:
    """Tell the other processes where the run goes on."""
    num_tasks = checkpoint.position.task if checkpoint and checkpoint.info else 0
    ranks.from_first(From(checkpoint, load_ended(record.path / "checkpoint", num_tasks)))


def _variants(
    record: Record, parts: Parts, batcher: Batcher, places: Places, progress: Progress, *, is_resumed: bool
) -> Callable[[Sequence[Task]], None]:
    """Return what predicts in other forms after a task."""
    features = None if record.spec.run.exact else places.cache_dir / "features"
    variants = Variants(
        record,
        (parts.backbone, parts.strategy),
        parts.stream,
        batcher,
        parts.seeds,
        features=features,
        progress=progress,
    )
    if is_resumed:
        variants.read()
    return variants.task_ended
