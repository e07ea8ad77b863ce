"""A sweep searches what it says, sees no test image, and goes on whatever is killed."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clbench
from clbench.cli.app import main
from clbench.data.tasks import Places
from clbench.options import SpecError
from clbench.outside.reading import RecordError
from clbench.records.lock import only_writer
from clbench.records.record import Record
from clbench.records.spec import RunSpec
from clbench.report.warnings import warnings
from clbench.runs.line import execute
from clbench.scale.crew import Crew, Heard
from clbench.scale.driving import Driver, SweepError, best_of, claim
from clbench.scale.halving import Stopping
from clbench.scale.searching import SEARCHES
from clbench.scale.space import Choices, Range, Space, read_space
from clbench.scale.sweep import Sweep, read_sweep
from clbench.scale.trials import Trial, Trials, ranked
from clbench.scale.worker import LAST, Job, do

SMALL = """
[stream]
tasks = 3
train_per_class = 8
test_per_class = 2
[strategy]
name = "naive-linear"
epochs = 1
"""
RATES = """
[space]
strategy.learning_rate = {choices = [0.001, 0.01, 0.1]}
"""


def described(settings: str = "", rest: str = RATES + SMALL) -> Sweep:
    return read_sweep(f"[sweep]\n{settings}\n{rest}")


class Here(Crew):
    """Does jobs in this process, one at a time, in a thread that may ask."""

    def __init__(self) -> None:
        self.said: queue.Queue[Heard] = queue.Queue()
        self.answers: queue.Queue[bool] = queue.Queue()
        self.given: list[tuple[int, Job]] = []
        self.num_going = 0

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    @property
    def has_room(self) -> bool:
        return self.num_going < 1

    @property
    def is_busy(self) -> bool:
        return self.num_going > 0

    def give(self, number: int, job: Job) -> None:
        def ask(num_tasks: int, accuracies: list[float]) -> bool:
            self.said.put((number, "asked", num_tasks, accuracies))
            return self.answers.get(timeout=20)

        self.given.append((number, job))
        self.num_going += 1
        work = {"job": job, "tell": lambda *told: self.said.put((number, *told)), "ask": ask}
        threading.Thread(target=do, kwargs=work, daemon=True).start()

    def heard(self) -> list[Heard]:
        message = self.said.get(timeout=20)
        self.num_going -= message[1] in LAST
        return [message]

    def answer(self, number: int, *, is_to_go_on: bool) -> None:
        self.answers.put(is_to_go_on)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(cache_dir=tmp_path / "cache")


def driven(sweep: Sweep, folder: Path, places: Places) -> tuple[list[Trial], Here]:
    claim(sweep, folder)
    crew = Here()
    driver = Driver(sweep, folder, places, crew)
    driver.drive()
    assert not [trial.reason for trial in driver.trials.trials if trial.state == "failed"]
    return driver.trials.trials, crew


# what is searched


def test_a_space_is_read_from_choices_and_ranges() -> None:
    tables = {
        "strategy": {
            "learning_rate": {"low": 0.001, "high": 1.0, "log": True},
            "epochs": {"low": 1, "high": 3},
        },
        "petl.name": {"choices": ["adapter", "lora"]},
    }
    space = read_space(tables)
    assert space.axes == (
        Range("strategy.learning_rate", 0.001, 1.0, True),
        Range("strategy.epochs", 1, 3),
        Choices("petl.name", ("adapter", "lora")),
    )
    assert space.num_points is None
    assert Space(space.axes[1:]).num_points == 6
    assert [point["strategy.epochs"] for point in Space(space.axes[1:]).points()] == [1, 1, 2, 2, 3, 3]


def test_a_range_is_drawn_from_whole_and_even() -> None:
    generator = np.random.default_rng(0)
    whole = Counter(Range("a", 1, 3).draw(generator) for _ in range(3000))
    assert set(whole) == {1, 2, 3}
    assert all(abs(count - 1000) < 100 for count in whole.values())  # four standard deviations
    logs = [math.log10(float(Range("a", 0.001, 1.0, True).draw(generator))) for _ in range(3000)]
    assert min(logs) >= -3
    assert max(logs) <= 0
    assert abs(np.mean(logs) + 1.5) < 0.07  # of a uniform distribution over [-3, 0]: four standard errors


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[sweep]\ntrails = 3", "sweep has no option 'trails'; did you mean 'trials'"),
        ("[sweep]\nsearch = 'gird'", "sweep.search: 'gird' is not allowed"),
        ("[sweep]\nmetric = 'acuracy'", "sweep.metric: no 'acuracy'"),
        ("[sweep.stopping]\nreduction = 1", "sweep.stopping.reduction: 1 is not allowed"),
        ("[swep]\ntrials = 3", "unknown section [swep]; did you mean 'sweep'"),
        ("[space]", "[space] names no option"),
        ("[space]\nstrategy.epochs = 3", "[space] strategy.epochs: 3 is not allowed; write"),
        ("[space]\nstratgy.epochs = {choices = [1]}", "unknown section 'stratgy'; did you mean 'strategy'"),
        (
            "[space]\nstrategy.epoch = {choices = [1]}",
            "strategy has no option 'epoch'; did you mean 'epochs'",
        ),
        ("[space]\nstrategy.epochs = {choices = [1, 1]}", "names a value twice"),
        ("[space]\nstrategy.epochs = {choices = [1, 'many']}", "strategy.epochs: 'many' is not allowed"),
        ("[space]\nstrategy.epochs = {lo = 1, high = 3}", "unknown key 'lo'; did you mean 'low' or 'log'"),
        ("[space]\nstrategy.epochs = {low = 3, high = 1}", "low = 3 is not below high = 1"),
        ("[space]\nstrategy.epochs = {low = 1}", "it says no high"),
        ("[space]\nstrategy.learning_rate = {low = 0.0, high = 1.0, log = true}", "has no logarithm"),
        ("[space]\nrun.seed = {choices = [1, 2]}", "run.seed is no option to search: set sweep.seeds"),
        ("[space]\nrun.scored_on = {choices = ['test']}", "run.scored_on is no option to search"),
        ("[space]\nstream.validation_rate = {choices = [0.1]}", "validation_rate is no option to search"),
        ("[run]\nscored_on = 'test'" + RATES, "run.scored_on is no option of a sweep"),
        ("[stream]\nvalidation_rate = 0" + RATES, "never looks at test images"),
        ("[stream]\nvalidation_rate = 0.0" + RATES, "never looks at test images"),
        (
            "[sweep]\nsearch = 'grid'\n[space]\nstrategy.learning_rate = {low = 0.1, high = 1.0}",
            "a range has no end",
        ),
        ("[strategy]\nname = 'lae-adaptor'" + RATES, "lae-adaptor"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.toml"
    file.write_text(text)
    assert main(["sweep", str(file)]) == 2
    printed, lines = capsys.readouterr()
    assert not printed
    assert lines.count("\n") == 1
    assert lines.startswith("error: ")
    assert told in lines
    assert os.listdir(tmp_path) == ["s.toml"]  # nothing was begun


def test_an_option_that_one_of_several_strategies_has_is_allowed() -> None:
    space = """
[space]
strategy.name = {choices = ["naive", "er"]}
strategy.memory_size = {choices = [20, 40]}
"""
    sweep = described("search = 'grid'", space)
    assert sweep.num_trials == 4
    with pytest.raises(SpecError, match="memory_size"):
        sweep.spec({"strategy.name": "naive", "strategy.memory_size": 20}, 0)


# which trial comes next


def a_trial(number: int, options: dict[str, Any], score: float) -> Trial:
    return Trial(number, options, "finished", scores={0: score}, by_task={0: {1: score}})


@pytest.mark.parametrize("name", SEARCHES)
def test_a_trial_is_a_function_of_seed_number_and_scores_before(name: str) -> None:
    if name == "optuna":
        pytest.importorskip("optuna")
    space = read_space(
        {"strategy": {"epochs": {"low": 1, "high": 40}, "memory_size": {"choices": [1, 2, 4]}}}
    )
    search = SEARCHES[name](space, seed=3)

    def sequence(so_far: list[Trial]) -> list[Trial]:
        trials = list(so_far)
        while len(trials) < 14:
            options = search.next(trials)
            assert options is not None
            trials.append(a_trial(len(trials), options, -abs(int(options["strategy.epochs"]) - 30)))
        return trials

    whole = sequence([])
    assert [each.options for each in sequence(whole[:12])] == [each.options for each in whole]
    assert len({json.dumps(each.options) for each in whole}) == 14
    other = SEARCHES[name](space, seed=4).next([])
    assert (other == whole[0].options) == (name == "grid")


def test_optuna_looks_where_scores_were_good() -> None:
    pytest.importorskip("optuna")
    space = read_space({"strategy": {"learning_rate": {"low": 0.0, "high": 1.0}}})
    far = {}
    for name in ("random", "optuna"):
        search, trials = SEARCHES[name](space, seed=0), []
        for number in range(40):
            options = search.next(trials)
            assert options is not None
            trials.append(a_trial(number, options, -abs(float(options["strategy.learning_rate"]) - 0.7)))
        far[name] = np.mean([-trial.score for trial in trials[20:]])
    assert far["optuna"] < far["random"] / 2


@pytest.mark.parametrize("name", SEARCHES)
def test_no_point_is_tried_twice_and_a_space_has_an_end(name: str) -> None:
    if name == "optuna":
        pytest.importorskip("optuna")
    space = read_space({"strategy": {"epochs": {"low": 1, "high": 3}, "memory_size": {"choices": [1, 2]}}})
    search, trials = SEARCHES[name](space), []
    while (options := search.next(trials)) is not None:
        trials.append(a_trial(len(trials), options, 0.5))
    assert len(trials) == 6
    assert all(point in [trial.options for trial in trials] for point in space.points())


# which trial goes on


def test_halving_by_hand() -> None:
    stopping = Stopping(reduction=3, grace=2)
    assert sorted(stopping.rungs)[:4] == [2, 6, 18, 54]
    arriving = [0.5, 0.4, 0.6, 0.55, 0.7, 0.65, 0.65, math.nan]
    #  of 1: best; 2: the best one is 0.5; 3: 0.6 is the best; 4: below 0.6; 5: best; 6: two of six go on,
    #  0.7 and 0.65; 7: two of seven, and 0.65 is as good as the second; nan is never good
    expected = [True, False, True, False, True, True, True, False]
    decided = [stopping.goes_on(score, arriving[:number]) for number, score in enumerate(arriving)]
    assert decided == expected


def test_the_ranking_puts_finished_trials_before_those_that_came_less_far() -> None:
    trials = [
        Trial(0, {}, "stopped", by_task={0: {1: 0.99}}),
        a_trial(1, {}, 0.2),
        Trial(2, {}, "failed"),
        a_trial(3, {}, 0.4),
        Trial(4, {}, "stopped", by_task={0: {1: 0.5, 3: 0.3}}),
    ]
    assert [trial.number for trial in ranked(trials)] == [3, 1, 4, 0, 2]
    assert [trial.number for trial in ranked(trials, higher_is_better=False)] == [1, 3, 4, 0, 2]


def test_a_torn_line_is_passed_over_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    trials.learnt(trials.ask({"strategy.epochs": 1}), 0, 1, 0.5)
    with open(tmp_path / "trials.jsonl", "a") as file:
        file.write('{"event": "asked", "tri')
    again = Trials(tmp_path)
    assert again.trials == trials.trials
    again.ask({"strategy.epochs": 2})
    assert [trial.options for trial in Trials(tmp_path).trials] == [
        {"strategy.epochs": 1},
        {"strategy.epochs": 2},
    ]
    (tmp_path / "trials.jsonl").write_text('{"event": "asked", "trial": 7, "options": {}}\n')
    with pytest.raises(RecordError, match="no sweep writes"):
        Trials(tmp_path)


# what is seen


def an_npz(file: Path, *, is_poisoned: bool) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 12)
    images = generator.integers(0, 256, (48, 8, 8, 3), dtype=np.uint8)
    images[:, :, :, 0] = labels[:, None, None] * 60
    test, test_labels = images[:16].copy(), np.tile(np.arange(4), 4)
    if is_poisoned:
        test, test_labels = 255 - test, np.roll(test_labels, 1)
    parts = {"train_x": images, "train_y": labels, "test_x": test, "test_y": test_labels}
    np.savez(file, **parts)


def test_a_sweep_sees_no_test_image(tmp_path: Path, no_figures: None) -> None:
    file = tmp_path / "set.npz"
    rest = RATES + f'[stream]\nname = "npz:{file}"\ntasks = 2\n[strategy]\nname = "er-linear"\nepochs = 2\n'
    sweep = described("search = 'grid'\ntrials = 2\n[sweep.stopping]\nreduction = 2", rest)
    seen = []
    for is_poisoned in (False, True):
        an_npz(file, is_poisoned=is_poisoned)
        folder = tmp_path / f"sweep-{is_poisoned}"
        trials, _ = driven(sweep, folder, Places(cache_dir=tmp_path / f"cache-{is_poisoned}"))
        logs = {}
        for path in sorted((folder / "runs").glob("*")):
            record = Record.open(path)
            assert record.predictions()["row"].max() < 48  # test images have the rows behind those
            logs |= {f"{path.name}/{log.name}": log.read_bytes() for log in path.glob("predictions/*")}
            logs[path.name] = json.dumps([record.read_json("matrix.json"), record.read_json("hashes.json")])
        seen.append((logs, [(trial.options, trial.score, trial.state) for trial in trials]))
    assert len(seen[0][0]) >= 5
    assert seen[0] == seen[1]
    best = sweep.best(trials[0].options)
    shown = [
        execute(best, out=tmp_path / f"best-{name}", places=Places(cache_dir=tmp_path / f"cache-{name}"))
        for name in (True,)
    ]
    assert shown[0].predictions()["row"].min() >= 48  # which the best options are shown on, once


def test_scores_on_validation_images_need_some_and_are_called_so(
    tmp_path: Path, places: Places, no_figures: None
) -> None:
    sections = {
        "stream": {"tasks": 2, "train_per_class": 8, "test_per_class": 2},
        "strategy": {"name": "simplecil"},
    }
    old = clbench.resolve(sections)
    assert "scored_on" not in old.to_toml()  # so that ids from before there was such an option stay
    none = {**sections["stream"], "validation_rate": 0.0}
    bare = clbench.resolve({**sections, "stream": none, "run": {"scored_on": "validation"}})
    assert bare.id != old.id
    with pytest.raises(SpecError, match=r"task 1 of split-digits has no validation images; set stream.valid"):
        execute(bare, out=tmp_path, places=places)
    for run in ({}, {"scored_on": "validation"}):
        execute(clbench.resolve({**sections, "run": run}), out=tmp_path / "runs", places=places)
    runs = clbench.load_runs(tmp_path / "runs")
    assert len(runs.groups) == 2
    assert sum("scored on validation images" in group.label for group in runs.groups) == 1
    told = [line for line in warnings(runs.groups) if line.startswith("Scored on validation images")]
    assert len(told) == 1
    assert not any("choose on test data" in line for line in runs.warnings)


# a sweep in one process


def test_a_sweep_stops_poor_trials_and_what_is_done_is_not_done_again(
    tmp_path: Path, places: Places, no_figures: None
) -> None:
    rest = "[space]\nstrategy.learning_rate = {choices = [0.05, 0.0001, 0.04]}\n" + SMALL
    sweep = described("search = 'grid'\nseeds = 2\n[sweep.stopping]\nreduction = 2\ngrace = 2", rest)
    trials, _ = driven(sweep, tmp_path, places)
    assert [trial.state for trial in trials][:2] == ["finished", "stopped"]
    stopped = Record.open(tmp_path / "runs" / trials[1].folders[0])
    assert not stopped.is_finished
    assert 1 not in trials[1].folders  # its other seed was not begun
    assert len(stopped.read_json("matrix.json")["accuracy"]) == 3
    finished = [trial for trial in trials if trial.state == "finished"]
    assert len(clbench.load_runs(tmp_path)) == 2 * len(finished)
    assert all(set(trial.scores) == {0, 1} for trial in finished)
    again, idle = driven(sweep, tmp_path, places)
    assert not idle.given
    assert again == trials
    best = best_of(sweep, trials)
    assert best is not None
    written = RunSpec.from_toml((tmp_path / "best.toml").read_text())
    assert written.strategy.options["learning_rate"] == best.options["strategy.learning_rate"]
    assert written.run.scored_on == "test"
    assert written.stream.options["validation_rate"] == 0.2
    resumed = clbench.resume(stopped.path, places=places)  # it stays a run that can be gone on with
    assert resumed.is_finished
    more = described("search = 'grid'\nseeds = 2\nseed = 1\n[sweep.stopping]\nreduction = 2\ngrace = 2", rest)
    with pytest.raises(SweepError, match="holds another sweep"):
        claim(more, tmp_path)


def test_a_decision_stands_after_a_kill_between_it_and_its_end(
    tmp_path: Path, places: Places, no_figures: None
) -> None:
    rest = "[space]\nstrategy.learning_rate = {choices = [0.05, 0.0001]}\n" + SMALL
    sweep = described("search = 'grid'\n[sweep.stopping]\nreduction = 2\ngrace = 2", rest)
    trials, _ = driven(sweep, tmp_path, places)
    assert trials[1].state == "stopped"
    file = tmp_path / "trials.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert '"ended", "trial": 1' in lines[-1]
    file.write_text("".join(lines[:-1]))
    again, idle = driven(sweep, tmp_path, places)
    assert not idle.given
    assert again[1].state == "stopped"
    scored = next(number for number, line in enumerate(lines) if '"scored"' in line)
    file.write_text("".join(lines[:scored]))  # killed when the first record was whole, and that not noted
    again, crew = driven(sweep, tmp_path, places)
    assert [number for number, _ in crew.given] == [1]
    assert [trial.state for trial in again] == ["finished", "stopped"]


def test_options_that_make_no_run_are_refused_and_end_no_sweep(
    tmp_path: Path, places: Places, no_figures: None
) -> None:
    space = """
[space]
strategy.name = {choices = ["naive-linear", "er-linear"]}
strategy.memory_size = {choices = [10]}
"""
    sweep = described("search = 'grid'", space + SMALL.replace('name = "naive-linear"', ""))
    trials, _ = driven(sweep, tmp_path, places)
    assert [trial.state for trial in trials] == ["refused", "finished"]
    assert "memory_size" in trials[0].reason


def test_a_sweep_goes_on_with_more_trials(tmp_path: Path, places: Places, no_figures: None) -> None:
    few, _ = driven(described("trials = 1"), tmp_path, places)
    more, crew = driven(described("trials = 2"), tmp_path, places)
    assert more[0] == few[0]
    assert [number for number, _ in crew.given] == [1]


def test_one_process_at_a_time_drives_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "s.toml", tmp_path / "s"
    file.write_text("[sweep]" + RATES + SMALL)
    claim(read_sweep(file.read_text()), folder)
    with only_writer(folder):
        assert main(["sweep", str(file)]) == 2
    assert "is being written by process" in capsys.readouterr().err
    assert not (folder / "trials.jsonl").exists()


# in processes, which are killed


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    """A sweep of eight runs of some seconds."""
    file = tmp_path / "sweep.toml"
    rest = SMALL.replace("epochs = 1", "epochs = 2")
    file.write_text(
        f"[sweep]\nsearch = 'random'\ntrials = 6\n[sweep.stopping]\nreduction = 2\ngrace = 2\n{rest}"
        "[space]\nstrategy.learning_rate = {low = 0.0001, high = 0.1, log = true}\n"
    )
    return file


def typed(file: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "clbench", "sweep", str(file), *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=file.parent
    )


def waited_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 240  # on a machine that does much else
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)


def ended(process: subprocess.Popen[str]) -> str:
    printed = process.communicate(timeout=400)[0]
    assert process.returncode == 0, printed
    return printed


def num_noted(folder: Path, event: str) -> int:
    file = folder / "trials.jsonl"
    return file.read_text().count(f'"event": "{event}"') if file.exists() else 0


def check_whole(folder: Path, num_trials: int) -> None:
    """Check that each trial has one record, begun once, and finished once if at all."""
    trials = Trials(folder).trials
    assert len(trials) == num_trials
    assert {trial.state for trial in trials} <= {"finished", "stopped"}
    paths = sorted((folder / "runs").glob("*"))
    assert sorted(path.name for path in paths) == sorted(trial.folders[0] for trial in trials)
    assert len({Record.open(path).spec.id for path in paths}) == num_trials
    for path in paths:
        events = Counter(
            json.loads(line)["event"] for line in (path / "events.jsonl").read_text().splitlines()
        )
        assert events["started"] == 1
        assert events["finished"] == Record.open(path).is_finished
        assert not Record.open(path).changes()
    finished = sum(trial.state == "finished" for trial in trials)
    assert len(clbench.load_runs(folder)) == finished


@pytest.mark.timeout(900)
@pytest.mark.slow  # three times processes that import torch
def test_a_sweep_goes_on_after_its_driver_and_a_worker_were_killed(sweep_file: Path) -> None:
    import psutil

    folder = sweep_file.with_suffix("")
    driver = typed(sweep_file, "--jobs", "2")
    waited_for(lambda: num_noted(folder, "ended") >= 1, driver)
    driver.kill()
    driver.communicate()
    driver = typed(sweep_file, "--jobs", "2")
    begun = num_noted(folder, "begun")
    waited_for(lambda: num_noted(folder, "begun") > begun, driver)
    for worker in psutil.Process(driver.pid).children():  # one of them is at work, at the least
        if "spawn_main" in " ".join(worker.cmdline()):
            worker.kill()
    printed = ended(driver)
    assert "signal 9" in printed
    check_whole(folder, 6)
    command = next(line for line in printed.splitlines() if "--config" in line).split()[1:]
    done_best = subprocess.run(
        [sys.executable, "-m", "clbench", *command, "--out", "shown"],
        cwd=sweep_file.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done_best.returncode == 0, done_best.stderr
    (shown,) = sweep_file.parent.glob("shown/*/spec.toml")
    assert RunSpec.from_toml(shown.read_text()).run.scored_on == "test"


@pytest.mark.slow
def test_ctrl_c_says_that_the_same_command_goes_on(sweep_file: Path) -> None:
    folder = sweep_file.with_suffix("")
    driver = typed(sweep_file, "--jobs", "2")
    waited_for(lambda: num_noted(folder, "begun") >= 1, driver)
    driver.send_signal(signal.SIGINT)
    printed = driver.communicate(timeout=20)[0]
    assert driver.returncode == 130
    assert "the same command goes on with what is left" in printed
    assert "Traceback" not in printed
    ended(typed(sweep_file, "--jobs", "2"))
    check_whole(folder, 6)


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
print("at", cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "kill":
        cluster.remove_node(node, allow_graceful=False)
        print("killed", flush=True)
    else:
        break
cluster.shutdown()
"""


@pytest.fixture
def cluster() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a Ray cluster of two nodes on this machine, and what kills the second."""
    pytest.importorskip("ray")
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=quiet,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    address = next(line.split()[1] for line in stdout if line.startswith("at "))

    def kill() -> None:
        stdin.write("kill\n")
        stdin.flush()
        next(line for line in stdout if line.startswith("killed"))

    yield address, kill
    stdin.write("end\n")
    stdin.close()
    process.wait(timeout=20)
    stdout.close()


@pytest.mark.timeout(900)
@pytest.mark.slow  # a cluster of two nodes, each with a process that imports torch
def test_a_sweep_on_two_nodes_goes_on_after_driver_and_node_were_killed(
    sweep_file: Path, cluster: tuple[str, Callable[[], None]]
) -> None:
    address, kill_node = cluster
    folder = sweep_file.with_suffix("")
    driver = typed(sweep_file, "--address", address)
    waited_for(lambda: num_noted(folder, "ended") >= 1, driver)
    driver.kill()
    driver.communicate()
    done = num_noted(folder, "ended")
    driver = typed(sweep_file, "--address", address)
    waited_for(lambda: num_noted(folder, "ended") > done, driver)
    kill_node()
    ended(driver)
    check_whole(folder, 6)


@pytest.mark.slow  # Ray waits before it gives up
def test_a_cluster_that_is_not_there_is_one_line(sweep_file: Path) -> None:
    pytest.importorskip("ray")
    process = typed(sweep_file, "--address", "127.0.0.1:1")
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert "error: --address 127.0.0.1:1: no Ray cluster answers" in printed
    assert "Traceback" not in printed
