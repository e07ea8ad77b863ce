"""Run a sweep with what there is to run it on, show it meanwhile, and print what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from clbench.cli.outcome import next_steps
from clbench.cli.stopping import end_at_once_next_time
from clbench.cli.sweep_table import SweepTable, trial_table
from clbench.cli.terminal import console, say, show
from clbench.data.tasks import Places
from clbench.options import SpecError
from clbench.outside.visible import shell_word
from clbench.records.lock import only_writer
from clbench.records.record import Record
from clbench.report import group_runs
from clbench.report.pictures import equal_bytes
from clbench.scale.crew import Crew
from clbench.scale.driving import BEST, RUNS, Driver, best_of, claim
from clbench.scale.pool import Pool
from clbench.scale.sweep import Sweep, read_sweep
from clbench.scale.trials import Trials

BUDGETS = "equal-bytes.png"  # in a sweep's folder


@dataclass(frozen=True)
class Wanted:
    """What was asked for beside the sweep."""

    folder: Path
    places: Places
    command: str  # as it was typed
    num_jobs: int | None = None  # runs at a time; None: as many as there are processors for
    address: str | None = None  # of a Ray cluster; None: processes of this machine


def read(file: Path) -> Sweep:
    """Read a sweep's file; SpecError in one line for what will not do."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpecError(f"{file}: {reason}") from error
    if not file.suffix:
        raise SpecError(f"{file}: call it {file}.toml; trials go into the folder {file}")
    try:
        return read_sweep(text)
    except SpecError as error:
        raise SpecError(f"{file}: {error}") from error


def sweep_and_print(sweep: Sweep, wanted: Wanted) -> bool:
    """Do what is left of a sweep; return whether a trial is finished and none has failed."""
    claim(sweep, wanted.folder)
    with only_writer(wanted.folder):
        trials = _drive(sweep, wanted)
    console().print(trial_table(trials.trials, sweep), crop=False)
    best = best_of(sweep, trials.trials)
    if best is None:
        say("error: no trial came to its end; the table says why")
        return False
    show(
        "\n".join([*_written(wanted.folder, trials), *_what_next(sweep, wanted)])
    )  # a command is one line, however long
    num_failed = sum(trial.state == "failed" for trial in trials.trials)
    if num_failed:
        say(f"error: {num_failed} of {len(trials.trials)} trials failed; the same command tries them again")
    return not num_failed


def _written(folder: Path, trials: Trials) -> list[str]:
    """Say which files there are; where budgets were tried, draw the trials that came to their end."""
    done = [trial for trial in trials.trials if trial.state == "finished"]
    records = [Record.open(folder / RUNS / name) for trial in done for name in trial.folders.values()]
    files = [folder / BEST]
    if any(record.spec.run.budget for record in records):
        files.append(folder / BUDGETS)
        equal_bytes(group_runs(records)).save(files[-1])
    return ["", *(f"written: {file}" for file in files)]


def _drive(sweep: Sweep, wanted: Wanted) -> Trials:
    folder = wanted.folder.absolute()
    data_dir = wanted.places.data_dir
    places = replace(wanted.places, data_dir=data_dir.absolute() if data_dir else None)
    table = SweepTable(sweep, console(stderr=True))
    driver = Driver(sweep, folder, places, _crew(sweep, wanted), table.hear, table.draw, wanted.command)
    table.trials = driver.trials.trials
    _say_what_is_left(sweep, driver.trials, wanted)
    try:
        with table:
            driver.drive()
    except KeyboardInterrupt:
        end_at_once_next_time()
        done = sum(trial.state != "open" for trial in driver.trials.trials)
        say(f"stopped; {done} of {sweep.num_trials} trials done; the same command goes on with what is left")
        raise
    return driver.trials


def _crew(sweep: Sweep, wanted: Wanted) -> Crew:
    settings = sweep.settings
    if wanted.address is not None:
        from clbench.scale.ray_pool import RayPool

        return RayPool(wanted.address, settings.processors, settings.gpus, wanted.num_jobs)
    allowed = max(1, _processors() // settings.processors)
    num_jobs = wanted.num_jobs or allowed
    devices = _devices(settings.gpus) if settings.gpus else [None]
    return Pool(min(num_jobs, len(devices)) if settings.gpus else num_jobs, settings.processors, devices)


def _processors() -> int:
    """Return how many processors this process may use."""
    counted: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(counted(0)) if counted else os.cpu_count() or 1


def _devices(each: float) -> list[str | None]:
    """Return which CUDA devices the first, the second, ... of the runs sees."""
    import torch

    there = torch.cuda.device_count()
    if there < each:
        raise SpecError(
            f"sweep.gpus: {each:g} of each run, and {there} are here; write 0 to learn on the processor"
        )
    if each < 1:
        return [str(device) for _ in range(int(1 / each)) for device in range(there)]
    size = int(each)
    return [",".join(map(str, range(first, first + size))) for first in range(0, there - size + 1, size)]


def _say_what_is_left(sweep: Sweep, trials: Trials, wanted: Wanted) -> None:
    settings = sweep.settings
    names = ", ".join(axis.name for axis in sweep.space.axes)
    seeds = f" of {settings.seeds} seeds" if settings.seeds > 1 else ""
    say(f"{sweep.num_trials} trials{seeds} · {settings.search} search over {names} -> {wanted.folder}")
    done = sum(trial.state not in ("open", "failed") for trial in trials.trials)
    if trials.trials:
        say(f"{done} of them are done already; the rest goes on")


def _what_next(sweep: Sweep, wanted: Wanted) -> list[str]:
    folder, data_dir = wanted.folder, wanted.places.data_dir
    seeds = ",".join(map(str, sweep.seeds))
    words = ["clbench", "run", "--config", str(folder / BEST), "--seed", seeds]
    words += ["--data-dir", str(data_dir)] if data_dir else []
    commands = {
        " ".join(map(shell_word, words)): "the best options on the test images, once",
        f"clbench report {shell_word(str(folder / RUNS))}": "tables and figures of the trials",
    }
    return next_steps(commands)
