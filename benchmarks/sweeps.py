"""Kill a sweep's driver and see that each trial ran once, and measure what several runs at a time save.

    python benchmarks/sweeps.py table [--trials 40] [--on pool,ray] [--out DIR]
    python benchmarks/sweeps.py throughput [--trials 8]

``table`` searches options of ``lae-adapter`` on split-digits, on processes of this machine and on a Ray
cluster of two nodes of one processor each. The driver is killed by SIGKILL when 10 and when 20 trials are
done, and the same command is typed again. ``throughput`` does the same trials one ``clbench run`` after
another, and as a sweep with one and with two processes. Every process has one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clbench.scale.driving import RUNS
from clbench.scale.sweep import read_sweep
from clbench.scale.trials import Trials

KILLED_AFTER = (10, 20)  # trials that are done
SWEEP = """
[sweep]
search = "optuna"
trials = {trials}
[sweep.stopping]
reduction = 3
[space]
strategy.learning_rate = {{low = 0.0001, high = 0.3, log = true}}
strategy.ema_decay = {{choices = [0.9, 0.99, 0.999]}}
petl.rank = {{choices = [2, 4, 8]}}
[strategy]
name = "lae-adapter"
epochs = 3
[stream]
name = "split-digits"
tasks = 5
"""
GRID = """
[sweep]
search = "grid"
trials = {trials}
[space]
strategy.learning_rate = {{choices = {rates}}}
[strategy]
name = "lae-adapter"
epochs = 3
[stream]
name = "split-digits"
tasks = 5
"""
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
print("at", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
CLBENCH = (sys.executable, "-m", "clbench")


@contextmanager
def two_nodes() -> Iterator[str]:
    """Give the address of a Ray cluster of two nodes on this machine."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", CLUSTER], text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield next(line.split()[1] for line in process.stdout if line.startswith("at "))
        process.stdin.close()


@contextmanager
def this_machine() -> Iterator[str]:
    """Give no address."""
    yield ""


WHERE: dict[str, Callable[[], object]] = {"pool": this_machine, "ray": two_nodes}


def num_done(folder: Path) -> int:
    """Return how many trials have ended in any way."""
    return sum(trial.state != "open" for trial in Trials(folder).trials)


def killed_twice(file: Path, folder: Path, address: str) -> tuple[str, float]:
    """Type the command, kill it, and type it again; return what it prints in the end, and the seconds."""
    words = [*CLBENCH, "sweep", str(file), "--out", str(folder)]
    words += ["--address", address] if address else ["--jobs", "2"]
    begun = time.monotonic()
    for number in KILLED_AFTER:
        driver = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while driver.poll() is None and num_done(folder) < number:
            time.sleep(0.1)
        driver.kill()
        driver.wait()
        print(f"  killed when {num_done(folder)} trials were done")
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout, time.monotonic() - begun


def said_of_records(folder: Path) -> str:
    """Check from the records' own events that each was begun once, and ended once if it is finished."""
    trials = Trials(folder).trials
    records = sorted((folder / RUNS).glob("*"))
    events = [
        Counter(json.loads(line)["event"] for line in (path / "events.jsonl").read_text().splitlines())
        for path in records
    ]
    begun_once = all(each["started"] == 1 for each in events)
    ended_once = all(each["finished"] <= 1 for each in events)
    is_each_of_a_trial = sorted(path.name for path in records) == sorted(
        name for trial in trials for name in trial.folders.values()
    )
    states = Counter(trial.state for trial in trials)
    resumed = sum(each["resumed"] for each in events)
    return (
        f"{len(trials)} trials {dict(states)}, {len(records)} records: each of one trial {is_each_of_a_trial}"
        f", begun once {begun_once}, finished at most once {ended_once}, gone on with {resumed} times"
    )


def table(trials: int, where: list[str], out: Path) -> None:
    """Print the table of a sweep that was killed twice, and what its records say."""
    for name in where:
        file, folder = out / f"{name}.toml", out / name
        file.write_text(SWEEP.format(trials=trials))
        print(f"\n{name}:")
        with WHERE[name]() as address:  # type: ignore[attr-defined]  # both are context managers
            printed, seconds = killed_twice(file, folder, address)
        print(printed)
        print(f"{said_of_records(folder)}; {seconds:.0f} s in all")


def throughput(trials: int, out: Path) -> None:
    """Print trials a minute, of the same trials done in three ways."""
    rates = [round(0.001 * 1.5**number, 6) for number in range(trials)]
    file = out / "grid.toml"
    file.write_text(GRID.format(trials=trials, rates=rates))
    sweep = read_sweep(file.read_text())
    seconds = {}
    begun = time.monotonic()
    for number, options in enumerate(sweep.space.points()):
        config = out / f"{number}.toml"
        config.write_text(sweep.spec(options, 0).to_toml())
        words = [*CLBENCH, "run", "--config", str(config), "--out", str(out / "alone")]
        subprocess.run(words, check=True, capture_output=True)
    seconds["one clbench run after another"] = time.monotonic() - begun
    for jobs in (1, 2):
        begun = time.monotonic()
        words = [*CLBENCH, "sweep", str(file), "--out", str(out / f"jobs-{jobs}"), "--jobs", str(jobs)]
        subprocess.run(words, check=True, capture_output=True)
        seconds[f"clbench sweep --jobs {jobs}"] = time.monotonic() - begun
    first = next(iter(seconds.values()))
    for name, taken in seconds.items():
        print(f"{name:32} {60 * trials / taken:6.1f} trials a minute, {first / taken:.2f} times as many")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["table", "throughput"])
    parser.add_argument("--trials", type=int, default=0)
    parser.add_argument("--on", default="pool,ray")
    parser.add_argument("--out", type=Path, help="a new folder [a temporary one]")
    typed = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        out = typed.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        if typed.what == "table":
            table(typed.trials or 40, typed.on.split(","), out)
        else:
            throughput(typed.trials or 8, out)


if __name__ == "__main__":
    main()
