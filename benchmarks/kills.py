"""Kill runs at random moments, resume them until they are done, and compare them with one left alone.

    python benchmarks/kills.py [--kills 150] [--strategies naive-lora,er] [--seed 0] [--csv kills.csv]

Every run is a process of its own, ``clbench run`` or ``clbench resume``, with one thread, and is ended by
SIGKILL, SIGTERM or SIGINT, which take turns: one in ten while it starts, the others while it works. After the
last two it must have said in one line how to go on. Runs that are killed share a cache of features that
starts empty, as does that of the one left alone. What must be equal, bit for bit: metrics, matrix, hashes,
every prediction, look and feature, and every cost that is counted. What is measured is left out: time, memory
and energy.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clbench import strategies
from clbench.options import option_types
from clbench.records.record import Record
from clbench.records.resolving import resolve

STRATEGIES = (
    *("naive-lora", "lae-adapter", "ewc-adapter", "lwf-adapter", "er-adapter", "derpp-adapter"),
    *("agem-adapter", "icarl-adapter", "l2p", "coda-prompt", "simplecil", "ranpac", "slda", "aper", "ease"),
)
MEASURED = {"time", "seconds", "memory", "energy"}  # not counted: they differ from run to run
FILES = ("metrics.json", "matrix.json", "hashes.json", "spec.toml", "anytime.parquet", "reliability.parquet")
SMALL = {"epochs": 2, "batch_size": 8, "memory_size": 20, "first_session_epochs": 1}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST_END = 60.0  # seconds from a signal to the end of the process
AT_START = 0.1  # share of the kills that come before the run has begun to work


@dataclass
class Outcome:
    """What became of the killed runs of one strategy."""

    strategy: str
    sigkill: int = 0
    sigterm: int = 0
    sigint: int = 0
    kills_at_start: int = 0
    runs: int = 0
    different: list[str] = field(default_factory=list)  # files and costs, or what a command said

    @property
    def kills(self) -> int:
        """The number of processes that a signal has ended."""
        return self.sigkill + self.sigterm + self.sigint


@dataclass(frozen=True)
class Place:
    """Where runs of one kind lie: left alone, or killed."""

    folder: Path
    config: Path

    def begin(self) -> subprocess.Popen[str]:
        """Begin a run, or go on with the one that is not finished."""
        words = ["run", "--config", str(self.config), "--out", str(self.folder / "runs")]
        begun = [record for record in self.records() if not record.is_finished]
        words = ["resume", str(begun[0].path)] if begun else words
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(self.folder / "cache")}
        return subprocess.Popen(
            [sys.executable, "-m", "clbench", *words],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def records(self) -> list[Record]:
        """Return the runs that have begun; a folder that is none is an error."""
        return [
            Record.open(path) for path in sorted((self.folder / "runs").glob("*")) if path.suffix != ".tmp"
        ]

    def num_begun(self) -> int:
        """Return how often any of the runs has begun or gone on."""
        logs = (self.folder / "runs").glob("*/events.jsonl")
        words = ('"event": "started"', '"event": "resumed"')
        return sum(log.read_text().count(word) for log in logs for word in words)


def main() -> int:
    """Kill, resume, compare, and print a row a strategy; return 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=150)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    names = arguments.strategies.split(",")
    outcomes = []
    print("| strategy | SIGKILL | SIGTERM | SIGINT | of these at the start | runs | different |")
    print("| --- | --: | --: | --: | --: | --: | --- |")
    for number, name in enumerate(names):
        share = arguments.kills // len(names) + (number < arguments.kills % len(names))
        outcomes.append(tried(name, share, random.Random(f"{arguments.seed} {name}")))
        row = outcomes[-1]
        told = "; ".join(row.different) or "nothing"
        counts = (row.sigkill, row.sigterm, row.sigint, row.kills_at_start, row.runs)
        print(f"| {name} | {' | '.join(map(str, counts))} | {told} |", flush=True)
    kills, runs = (sum(getattr(each, name) for each in outcomes) for name in ("kills", "runs"))
    print(f"{kills} kills, {runs} runs compared")
    if arguments.csv:
        with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(vars(outcomes[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows({**vars(each), "different": "; ".join(each.different)} for each in outcomes)
    return int(any(each.different for each in outcomes))


def tried(name: str, kills: int, chance: random.Random) -> Outcome:
    """Leave one run alone and kill others so many times."""
    outcome = Outcome(name)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "spec.toml"
        config.write_text(small(name), encoding="utf-8")
        alone, killed = (Place(Path(folder) / kind, config) for kind in ("alone", "killed"))
        starting, working = timed(alone)
        (whole,) = alone.records()
        while outcome.kills < kills or any(not each.is_finished for each in killed.records()):
            is_alive = outcome.kills < kills
            process, before = killed.begin(), killed.num_begun()
            at_start = is_alive and chance.random() < AT_START
            if at_start:
                wait(process, starting * chance.random())
            elif is_alive:
                while process.poll() is None and killed.num_begun() == before:
                    time.sleep(0.005)
                wait(process, working * chance.random() * 0.7)
            sent = SIGNALS[outcome.kills % len(SIGNALS)] if is_alive else None
            status, told = ended(process, sent)
            if sent and (wrong := what_is_wrong(sent, status, told, killed, at_start)):
                outcome.different.append(wrong)
                return outcome
            if sent and status:
                setattr(outcome, sent.name.lower(), getattr(outcome, sent.name.lower()) + 1)
                outcome.kills_at_start += at_start
            elif status:
                outcome.different.append(f"exit status {status}: {last_line(told)}")
                return outcome
        outcome.runs = len(killed.records())
        for record in killed.records():
            outcome.different += [each for each in differences(whole, record)]
    return outcome


def small(name: str) -> str:
    """Return the spec of a small run, with whatever a record may hold."""
    allowed = option_types(strategies.get(strategies.split(name)[0]))
    options = {key: value for key, value in SMALL.items() if key in allowed}
    return resolve(
        {
            "stream": {"name": "split-digits", "tasks": "3", "train_per_class": 10, "test_per_class": 5},
            "strategy": {"name": name, **options},
            "run": {"checkpoint_every": 2, "eval_every": 3, "probe_images": 1, "eval_batch_size": 16},
        }
    ).to_toml()


def timed(alone: Place) -> tuple[float, float]:
    """Do the run that is left alone; return the seconds until it had begun, and those of its work."""
    process, begun = alone.begin(), time.monotonic()
    while process.poll() is None and not alone.num_begun():
        time.sleep(0.005)
    started = time.monotonic()
    status, told = ended(process, None)
    if status:
        raise SystemExit(told)
    return started - begun, time.monotonic() - started


def wait(process: subprocess.Popen[str], seconds: float) -> None:
    """Wait so long, or until the process has ended."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def ended(process: subprocess.Popen[str], sent: signal.Signals | None) -> tuple[int, str]:
    """Return the exit status of a process, sent a signal or not, and what it said."""
    if sent:
        process.send_signal(sent)
    try:
        told = process.communicate(timeout=LONGEST_END if sent else None)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(), "it has not ended"
    return process.returncode, told


def what_is_wrong(sent: signal.Signals, status: int, told: str, killed: Place, at_start: bool) -> str:
    """Tell what a process should not have done after a signal; nothing where all is well.

    It may have been done already, and a signal ends it at once before the command is read and after it.
    """
    is_done = all(record.is_finished for record in killed.records())
    if status == 0 or sent == signal.SIGKILL or (status == -sent and (at_start or is_done)):
        return ""
    if status != 128 + sent:
        return f"exit status {status} after {sent.name}: {last_line(told)}"
    if not at_start and not last_line(told).startswith("stopped; go on with: "):
        return f"after {sent.name} it said: {last_line(told)}"
    return ""


def last_line(told: str) -> str:
    """Return the last line of what a process said."""
    return told.splitlines()[-1] if told else ""


def differences(whole: Record, record: Record) -> Iterator[str]:
    """Name the files and the costs in which two records are not equal."""
    names = set(FILES)
    for each in (whole, record):
        for kind in ("predictions", "probe"):
            names |= {str(path.relative_to(each.path)) for path in each.path.glob(f"{kind}/*")}
    for name in sorted(names):
        files = [each.path / name for each in (whole, record)]
        one, other = (file.read_bytes() if file.is_file() else b"" for file in files)
        if one != other:
            yield name
    costs = [counted(json.loads((each.path / "costs.json").read_text())) for each in (whole, record)]
    yield from sorted({key for key, value in costs[0].items() ^ costs[1].items()})
    yield from (f"changed: {name}" for name in record.changes())


def counted(tree: Any, place: str = "costs") -> dict[str, object]:
    """Return every cost that is counted, by its path."""
    if isinstance(tree, (dict, list)):
        named = tree.items() if isinstance(tree, dict) else enumerate(tree)
        parts = (counted(value, f"{place}.{key}") for key, value in named if key not in MEASURED)
        return {key: value for part in parts for key, value in part.items()}
    return {place: tree}


if __name__ == "__main__":
    sys.exit(main())
