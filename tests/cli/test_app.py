"""The command line: its options, what wins over what, what it prints, and how it stops."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import clbench
from clbench.cli import app as cli
from clbench.cli.app import main
from clbench.cli.live import Live
from clbench.outside.reading import parse_toml
from clbench.quant.kernels import library
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec

SMALL = [
    "--set",
    "strategy.epochs=1",
    "--set",
    "stream.train_per_class=8",
    "--set",
    "stream.test_per_class=4",
]
HEAVY = {"torch", "timm", "torchvision", "avalanche", "pandas", "matplotlib", "sklearn", "pyarrow"}
AGAIN = [
    "--strategy",
    "--petl",
    "--backbone",
    "--quant",
    "--compress",
    "--weights",
]  # of what a learner is opened with
COMMANDS = {
    "run": [
        "--stream",
        "--strategy",
        "--backbone",
        "--petl",
        "--quant",
        "--compress",
        "--variant",
        "--seed",
        "--device",
        "--precision",
        "--data-dir",
        "--out",
        "--config",
        "--set",
        "--logger",
        "--exact",
        "--jobs",
        "--again",
        "--dry-run",
    ],
    "resume": ["RUN", "--data-dir", "--logger"],
    "sweep": ["FILE.toml", "--out", "--jobs", "--address", "--data-dir", "--dry-run"],
    "predict": [
        "RUN|BUNDLE",
        "IMAGE|FOLDER",
        "--top",
        "--task",
        "--format",
        "--out",
        "--figure",
        "--device",
        "--data-dir",
        *AGAIN,
    ],
    "learn": ["RUN|BUNDLE", "--stream", "--set", "--device", "--data-dir", "--out", "--logger", *AGAIN],
    "export": [
        "RUN|BUNDLE",
        "--out",
        "--format",
        "--variant",
        "--without-backbone",
        "--exemplars",
        "--predict-only",
        "--preprocessing",
        "--task",
        "--data-dir",
        *AGAIN,
    ],
    "pretrain": [
        "METHOD",
        "--backbone",
        "--stream",
        "--out",
        "--set",
        "--seed",
        "--device",
        "--data-dir",
    ],
    "list": ["[KIND]", "--backbone", "--set", "--csv"],
    "show": ["[KIND] NAME"],
    "report": [
        "RUN...",
        "--out",
        "--html",
        "--label",
        "--metrics",
        "--figures",
        "--by-task",
        "--recompute",
    ],
    "check": ["FILE.py:NAME", "--kind", "--set", "--data-dir"],
    "new": ["strategy|stream|petl|quant|compress|metric", "NAME"],
    "doctor": ["--data-dir"],
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to type in, on a machine without an accelerator."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CLBENCH_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache")
    monkeypatch.setattr("clbench.devices.available", lambda: ["cpu"])
    return folder


def dry_run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["run", "--dry-run", *words]) == 0
    printed, told = capsys.readouterr()
    assert not told
    return printed


def test_the_list_of_options_is_frozen() -> None:
    group = typer.main.get_command(cli.app)
    listed = {
        name: [
            parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
            for parameter in command.params
        ]
        for name, command in vars(group)["commands"].items()
    }
    assert listed == COMMANDS
    assert [parameter.opts for parameter in group.params] == [["--version"], ["--debug"]]


# what a command line becomes


def test_a_dry_run_prints_a_config_of_the_same_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--strategy", "naive", "--petl", "lora", "--set", "petl.rank=2", "--seed", "3"]
    printed = dry_run(capsys, *words)
    (here / "again.toml").write_text(printed)
    assert dry_run(capsys, "--config", "again.toml") == printed
    spec = RunSpec.from_toml(printed)
    assert printed.startswith(f"# id {spec.id}, seed 3\n")
    assert spec.petl.options["rank"] == 2


def test_a_dry_run_of_several_seeds_names_each_id(capsys: pytest.CaptureFixture[str]) -> None:
    printed = dry_run(capsys, "--seed", "0, 1,7")
    ids = [f"# id {resolve({'run': {'seed': seed}}).id}, seed {seed}" for seed in (0, 1, 7)]
    assert printed.splitlines()[:3] == ids
    assert parse_toml(printed)["run"]["seed"] == 0


@pytest.mark.parametrize(
    ("words", "epochs", "module"),
    [
        ([], 20, "adapter"),  # the recipe of split-digits
        (["--stream", "split-imagenet-r"], 50, "adapter"),
        (["--stream", "split-imagenet-r", "--config", "c.toml"], 7, "lora"),
        (["--config", "c.toml"], 7, "lora"),
        (["--config", "c.toml", "--petl", "prefix"], 7, "prefix"),
        (["--config", "c.toml", "--strategy", "lae-prefix"], 7, "prefix"),
        (["--config", "c.toml", "--strategy", "naive"], 7, "lora"),
        (["--config", "c.toml", "--petl", "prefix", "--set", "petl.name=linear"], 7, "linear"),
        (["--config", "c.toml", "--set", "strategy.epochs=9"], 9, "lora"),
        (["--set", "strategy.epochs=8", "--set", "strategy.epochs=9"], 9, "adapter"),
    ],
)
def test_later_words_win(
    words: list[str], epochs: int, module: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "c.toml").write_text("[strategy]\nname = 'lae-lora'\nepochs = 7\n")
    spec = RunSpec.from_toml(dry_run(capsys, *words))
    assert spec.strategy.options["epochs"] == epochs
    assert spec.petl.name == module


@pytest.mark.parametrize(
    ("words", "device"),
    [
        ([], "cuda"),
        (["--device", "auto"], "cuda"),
        (["--device", "cpu"], "cpu"),
        (["--device", "cuda:0"], "cuda:0"),
    ],
)
def test_the_spec_holds_a_real_device(
    words: list[str], device: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clbench.devices.available", lambda: ["cuda", "cuda:0", "cpu"])
    assert RunSpec.from_toml(dry_run(capsys, *words)).run.device == device


def test_the_data_folder_may_come_from_the_environment(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "sets").mkdir()
    (here / "sets" / "cifar100.npz").write_bytes(b"")
    monkeypatch.setenv("CLBENCH_DATA", "sets")
    main(["doctor"])
    assert "sets/cifar100.npz" in capsys.readouterr().out


@pytest.mark.parametrize("variable", ["", "portable", "sse"])
def test_the_doctor_tells_by_what_few_bits_are_multiplied(
    variable: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLBENCH_KERNELS", variable)
    code = main(["doctor"])
    printed = " ".join(capsys.readouterr().out.split())
    if library.library() is None:
        assert "python -m clbench.quant.kernels.compiling" in printed
        return
    best = next(iter(library.running()), "portable")
    found = {"": f"{best} ", "portable": "weights of few bits are expanded", "sse": "'sse' does not run here"}
    assert found[variable] in printed
    assert (code == 0) == (variable != "sse")


# a run


def test_two_seeds_make_two_records_a_summary_and_a_report(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--strategy", "naive", "--seed", "0,1", "--set", "stream.tasks=2", *SMALL]
    assert main(words) == 0
    printed, told = capsys.readouterr()
    records = sorted(file.parent for file in (here / "runs").glob("*/spec.toml"))
    assert [RunSpec.from_toml((each / "spec.toml").read_text()).run.seed for each in records] == [0, 1]
    for record in records:
        assert f"record: runs/{record.name}\n" in printed
        assert (record / "command.txt").read_text() == "clbench " + " ".join(words) + "\n"
    assert "±" in printed
    assert len(re.findall(r"written: runs/summary-\S+\.(?:csv|json)\n", printed)) == 2
    assert re.search(r"written: runs/summary-\S+/\s+with\s+runs.csv", printed)
    assert told.count("task  2/2  average") == 2
    assert told.startswith("2 runs · split-digits · naive-adapter · vit-micro · seeds 0, 1\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", told + printed)
    suggested = re.findall(r"^  (clbench .*)$", printed, re.MULTILINE)
    assert suggested[1] == f"clbench predict runs/{records[0].name} IMAGE..."
    assert suggested[2].endswith("--strategy lae-adapter")
    assert suggested[3] == "clbench show naive"
    assert main(suggested[0].split()[1:]) == 0
    assert "written: runs/report/comparison.tex" in capsys.readouterr().out
    assert main(["resume", str(records[0])]) == 0
    assert "finished already" in capsys.readouterr().out


def test_the_suggested_command_drops_what_the_other_strategy_has_not(here: Path) -> None:
    from clbench.cli.outcome import another_run
    from clbench.records.record import Record

    settings = "--set strategy.ema_decay=0.9 --set=strategy.epochs=2 --set petl.rank=3"
    (here / "command.txt").write_text(f"clbench run --strategy lae-lora {settings}\n")
    record = Record(here, resolve({"strategy": {"name": "lae-lora"}}))
    assert another_run(record) == "clbench run --set strategy.epochs=2 --set petl.rank=3 --strategy naive"


def test_ctrl_c_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    def interrupted(spec: RunSpec, *, out: Path, progress: Live, **rest: object) -> None:
        progress.run_started(spec, out / "a run", 5)
        raise KeyboardInterrupt

    handlers = []
    monkeypatch.setattr("clbench.runs.line.execute", interrupted)
    monkeypatch.setattr(signal, "signal", lambda *both: handlers.append(both))
    assert main(["run", "--seed", "0", "--data-dir", "."]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "stopped; go on with: clbench resume 'runs/a run' --data-dir ."
    assert {(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGTERM)} <= set(handlers)


def test_sigterm_stops_as_ctrl_c_does_and_leaves_the_handlers_as_they_were(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    def terminated(spec: RunSpec, *, out: Path, progress: Live, **rest: object) -> None:
        progress.run_started(spec, out / "a run", 5)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("clbench.runs.line.execute", terminated)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert main(["run", "--seed", "0"]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; go on with: clbench resume 'runs/a run'"
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_ctrl_c_is_heard_where_a_shell_has_it_ignored(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    def interrupted(spec: RunSpec, **rest: object) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background job
    try:
        monkeypatch.setattr("clbench.runs.line.execute", interrupted)
        assert main(["run", "--seed", "0"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; no run had begun"


def test_a_reader_of_a_pipe_may_leave() -> None:
    command = f"{sys.executable} -m clbench list | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("streams")
    assert not done.stderr


@pytest.mark.parametrize(
    "words",
    [["--help"], ["list"], ["run", "--help"], ["predict", "--help"], ["learn", "--help"], ["--version"]],
)
def test_what_is_asked_for_first_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        f"import sys; from clbench.cli.app import main; main({words}); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout
    assert not HEAVY & set(done.stderr.split())


def test_what_is_wrong_with_asking_or_teaching_a_learner_is_told_before_anything_heavy(here: Path) -> None:
    (here / "run").mkdir()
    (here / "run" / "spec.toml").write_text(resolve({"strategy": {"name": "simplecil"}}).to_toml())
    code = f"""
import sys
from clbench.cli.app import main
for words in (
    "predict none a.png", "predict run a.png", "predict run run --format cvs", "predict run run --top 0",
    "learn none --stream folder:x", "learn run --stream split-digit",
    "learn run --stream folder:x --set run=1",
    "learn run --stream folder:x --set stream.tusks=3", "learn run --stream folder:x --set strategy.epoch=1",
    "export none --out x", "export run --out x --format onyx", "run --config run/spec.toml --seed one",
):
    print(words, main(words.split()), sorted({HEAVY} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 12
    assert all(line.endswith(" 2 []") for line in done.stdout.splitlines()), done.stdout
    assert all(line.startswith("error: ") for line in done.stderr.splitlines()), done.stderr


def test_the_first_words_of_a_run_and_what_is_wrong_with_it_come_before_anything_heavy() -> None:
    code = f"""
import sys
from clbench.cli.app import main
from clbench.cli import terminal
def heavy():
    return sorted({HEAVY} & set(sys.modules))
for words in (
    "--strategy lae-adaptor", "--backbone vit_tinny_patch16_224", "--petl lore", "--stream split-cifar",
    "--strategy lae-adapter --petl lora", "--set strategy.ema_decoy=1", "--set strategy.epochs=many",
    "--set stream.tusks=3", "--petl peft.lora --set petl.rank=0", "--set backbone.crop=2", "--seed one",
    "--strategy er,none.py:ER", "--strategy avalanche.er-ace --set strategy.memory=1", "--set run.sede=1",
):
    print(words, main(["run", *words.split()]), heavy())
say = terminal.say
terminal.say = lambda line: sys.exit(say(f"{{line}} {{heavy()}}"))
main(["run", "--strategy", "lae,er-lora", "--seed", "0,1"])
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 14
    assert all(line.endswith(" 2 []") for line in lines), done.stdout
    *told, header = done.stderr.splitlines()
    assert len(told) == 14, told
    assert all(line.startswith("error: ") for line in told)
    assert header == "4 runs · split-digits · lae-adapter, er-lora · vit-micro · seeds 0, 1 []"


def test_the_version_is_that_of_the_package(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"clbench {clbench.__version__}\n"
    project = parse_toml((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["version"] == {"path": "clbench/version.py"}
