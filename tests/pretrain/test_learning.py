"""What comes out of pre-training, what is refused, and that a stopped course ends as if it had not been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from safetensors import safe_open

from clbench import pretrain as methods
from clbench.cli.app import main
from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.pretrain.asked import Asked, asked
from clbench.pretrain.learning import DivergedError, pretrain
from clbench.pretrain.listener import Listener
from clbench.pretrain.partial import OutError

FEW = {"train_per_class": 8, "test_per_class": 2}  # 70 images to learn from
STEPS = 5
OPTIONS = {
    "pretrain": {"batch_size": 8, "max_steps": STEPS, "drop_path": 0.1, "mixes": True},
    "stream": FEW,
}
WORDS = [f"{kind}.{name}={value}" for kind, table in OPTIONS.items() for name, value in table.items()]
COMMAND = ["pretrain", "tocom", "--backbone", "vit-micro", "--stream", "split-digits", "--device", "cpu"]
RECIPE = {"batch_size": 30, "drop_path": 0.1, "mixup": 0.8, "cutmix": 1.0, "erasing": 0.5}  # 2 steps an epoch
INCUBATED = {**RECIPE, "modules": 2, "meta_epochs": 1, "module_epochs": 2, "epochs": 1, "threads": 1}
SHORT: dict[str, dict[str, object]] = {  # options of a short course of every method
    "tocom": OPTIONS["pretrain"],
    "end-to-end": {**RECIPE, "epochs": 3},
    "incubation": INCUBATED,
}
KILLED = """
import os, signal, sys
from pathlib import Path
from clbench.data.tasks import Places
from clbench.pretrain.asked import asked
from clbench.pretrain.learning import pretrain
from clbench.pretrain.listener import Listener

class Killer(Listener):
    steps = 0
    def step_done(self, loss, where):
        self.steps += 1
        if self.steps == 4:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":  # processes of its own begin here, too
    sections = {"pretrain": {options}, "stream": {stream}}
    wanted = asked("{method}", backbone="vit-micro", stream="split-digits", sections=sections)
    places = Places(cache_dir=Path(sys.argv[2]))
    pretrain(wanted, Path(sys.argv[1]), places=places, listener=Killer(), seconds_between=0)
"""


class Stopper(Listener):
    """Stops a course as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left, self.num_done = after, 0

    def begun(self, num_steps: int, num_done: int, notes: object) -> None:
        self.num_done = num_done

    def step_done(self, loss: float, where: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.delenv("CLBENCH_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return Places(cache_dir=tmp_path / "cache")


def wanted(method: str = "tocom", seed: int = 0, **options: object) -> Asked:
    sections = {"stream": FEW, "pretrain": {**SHORT[method], **options}}
    return asked(method, backbone="vit-micro", stream="split-digits", sections=sections, seed=seed)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """What comes out of an undisturbed course of a method."""

    @cache
    def made(method: str) -> bytes:
        folder = tmp_path_factory.mktemp("whole")
        places = Places(cache_dir=folder / "cache")
        return pretrain(wanted(method), folder / "whole.safetensors", places=places).read_bytes()

    return made


@pytest.fixture
def whole(undisturbed: Callable[[str], bytes]) -> bytes:
    return undisturbed("tocom")


def test_every_method_has_a_short_course_here() -> None:
    assert sorted(SHORT) == sorted(methods.names())


@pytest.mark.parametrize(
    ("method", "options"),
    [*((method, {}) for method in SHORT), ("incubation", {"workers": 2})],
    ids=[*SHORT, "incubation by two"],
)
def test_a_course_that_was_killed_goes_on_to_the_same_bytes(
    method: str,
    options: dict[str, object],
    tmp_path: Path,
    places: Places,
    undisturbed: Callable[[str], bytes],
    checkout: Path,
) -> None:
    file, script = tmp_path / "killed.safetensors", tmp_path / "script.py"
    code = KILLED.replace("{options}", repr({**SHORT[method], **options})).replace("{stream}", repr(FEW))
    script.write_text(code.replace("{method}", method))
    words = [sys.executable, str(script), str(file), str(places.cache_dir)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(checkout)}, check=False)
    assert done.returncode == -9
    assert not file.exists()
    assert file.with_suffix(".partial").is_dir()
    rest = Stopper(after=-1)
    pretrain(wanted(method, **options), file, places=places, listener=rest)
    assert rest.num_done == 3  # it was killed before the fourth was kept
    assert file.read_bytes() == undisturbed(method)
    assert sorted(path.name for path in tmp_path.glob("killed*")) == ["killed.json", "killed.safetensors"]
    made = json.loads(file.with_suffix(".json").read_text())
    assert made["steps"] == len(made["loss"])


@pytest.mark.parametrize("method", SHORT)
def test_a_course_that_was_interrupted_again_and_again_ends_in_the_same_bytes(
    method: str, tmp_path: Path, places: Places, undisturbed: Callable[[str], bytes]
) -> None:
    file = tmp_path / "stopped.safetensors"
    while not file.exists():
        with suppress(KeyboardInterrupt):
            pretrain(wanted(method), file, places=places, listener=Stopper(after=2), seconds_between=0)
    assert file.read_bytes() == undisturbed(method)


def test_another_seed_makes_another_file(tmp_path: Path, places: Places, whole: bytes) -> None:
    assert pretrain(wanted(seed=1), tmp_path / "other.safetensors", places=places).read_bytes() != whole


def test_another_command_does_not_go_on_with_what_one_left(tmp_path: Path, places: Places) -> None:
    file = tmp_path / "stopped.safetensors"
    with pytest.raises(KeyboardInterrupt):
        pretrain(wanted(), file, places=places, listener=Stopper(after=2), seconds_between=0)
    with pytest.raises(OutError, match=r"another command left: method\.rank is 2 there and 1 here; remove"):
        pretrain(wanted(rank=1), file, places=places)
    with pytest.raises(OutError, match=r"another command left: seed is 0 there and 1 here"):
        pretrain(wanted(seed=1), file, places=places)


def test_a_loss_that_is_not_finite_ends_it(
    tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clbench.pretrain.tocom.divergence", lambda teacher, student: student.sum() * 1e39)
    with pytest.raises(DivergedError, match=r"the loss of step 1 is (-?inf|nan)"):
        pretrain(wanted(), tmp_path / "lost.safetensors", places=places)
    assert not (tmp_path / "lost.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "there", "told"),
    [
        ("plugin.pth", None, "is to end in .safetensors"),
        ("plugin.safetensors", "plugin.safetensors", "is there already; nothing is overwritten"),
        ("plugin.safetensors", "plugin.json", "plugin.json would be overwritten"),
    ],
)
def test_what_is_in_the_way_stays(name: str, there: str | None, told: str, tmp_path: Path) -> None:
    if there:
        (tmp_path / there).write_text("mine")
    with pytest.raises(UserError) as raised:
        pretrain(wanted(), tmp_path / name)
    assert told in str(raised.value)
    assert [path.read_text() for path in tmp_path.glob("plugin*")] == (["mine"] if there else [])


def test_the_command_says_what_it_does_and_what_came_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [word for each in WORDS for word in ("--set", each)]
    assert main([*COMMAND, *settings, "--out", "made.safetensors", "--seed", "3"]) == 0
    printed, told = capsys.readouterr()
    assert told.splitlines()[:2] == [
        "tocom · vit-micro · split-digits · seed 3",
        "on cpu -> made.safetensors",
    ]
    assert f"step     {STEPS}/{STEPS}  loss " in told
    assert "from  to" in printed
    assert "written: made.safetensors and made.json" in printed
    with safe_open(tmp_path / "made.safetensors", "pt") as opened:
        about = opened.metadata()
    named = ("method", "backbone", "weights", "image_size", "stream", "seed", "steps", "recipe")
    assert [about[name] for name in named] == [
        *("tocom", "vit-micro", "clbench vit-micro", "32", "split-digits", "3", str(STEPS), "small")
    ]
    made = json.loads((tmp_path / "made.json").read_text())
    assert made["digests"] == {"weights": about["weights_digest"], "stream": about["stream_digest"]}
    assert made["command"].startswith("clbench pretrain tocom --backbone vit-micro")
    assert made["asked"]["method"]["batch_size"] == 8
    assert made["images"] == {"train": 70, "test": 20}
    assert main([*COMMAND, *settings, "--out", "made.safetensors", "--seed", "3"]) == 2
    assert "is there already; nothing is overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tocm"], "no 'tocm' among the pretrain; did you mean 'tocom'?"),
        (["tocom", "--set", "pretrain.max_step=3"], "no option 'max_step'; did you mean 'max_steps'"),
        (["tocom", "--set", "pretrain.rank=0"], "pretrain.rank: '0' is not allowed"),
        (
            ["tocom", "--set", "strategy.epochs=1"],
            "unknown section 'strategy'; did you mean 'stream'? (allowed: pretrain,",
        ),
        (["tocom", "--backbone", "vit-mikro"], "no backbone named 'vit-mikro'; did you mean 'vit-micro'"),
        (["end-to-end", "--set", "pretrain.teacher=vit-mikro"], "no backbone named 'vit-mikro'"),
        (
            ["incubation", "--set", "pretrain.divided_depths=2,1"],
            "2,1 are 3 blocks, of at least one a module",
        ),
        (["tocom", "--stream", "split-digit"], "did you mean 'split-digits'"),
        (["tocom", "--out", "x.bin"], "--out x.bin: the name is to end in .safetensors"),
        (["tocom", "--backbone", "resnet18", "--set", "backbone.weights=none"], "use a Vision Transformer"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ["--backbone", "vit-micro", "--stream", "split-digits", "--out", "x.safetensors"]
    assert main(["pretrain", words[0], *rest, *words[1:], "--device", "cpu"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert told in last
    assert not list(Path().glob("x.*"))


def test_ctrl_c_leaves_a_line_that_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("clbench.pretrain.tocom.Distillation.step", interrupted)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main([*COMMAND, "--out", "x.safetensors"]) == 130
    assert "stopped; the same command goes on" in capsys.readouterr().err
