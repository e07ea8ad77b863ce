"""Whatever is wrong with what a user gives is told in one line, with a status of 2, and nothing is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save_file

from clbench.cli.app import main
from clbench.records.record import Record

Build = Callable[[Path], object]
SMALL = [
    "--set",
    "strategy.epochs=1",
    "--set",
    "stream.train_per_class=8",
    "--set",
    "stream.test_per_class=4",
]
RUN = ["run", *SMALL]
NPZ = ["run", "--stream", "npz:images.npz"]
FOLDER = ["run", "--stream", "folder:images"]
MICRO = ["run", "--set"]
STRATEGY_FILE = """
from dataclasses import dataclass
from clbench.strategies import Strategy

@dataclass
class ER(Strategy):
    pass

class NotOne:
    pass
"""


@dataclass(frozen=True)
class Case:
    """A command, what lies in the folder that it is typed in, and words that the one line must have."""

    words: list[str]
    told: tuple[str, ...]
    build: Build = lambda folder: None


def text(name: str, content: str | bytes) -> Build:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def npz(**changes: object) -> Build:
    """Build images.npz: three classes, four training and two test images each, and then the changes."""
    rng = np.random.default_rng(0)
    arrays: dict[str, object] = {
        "train_x": rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8),
        "train_y": np.arange(12) % 3,
        "test_x": rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8),
        "test_y": np.arange(6) % 3,
        **changes,
    }
    given = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    return lambda folder: np.savez(folder / "images.npz", **given)  # type: ignore[arg-type]


def images(folder: Path, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for name in classes:
        (folder / "images" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / "images" / name / f"{number}.png")


def images_and_empty_class(folder: Path) -> None:
    images(folder)
    (folder / "images" / "eel").mkdir()


def images_and_corrupt_one(folder: Path) -> None:
    images(folder)
    (folder / "images" / "dog" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")


def weights(folder: Path, *, cut: int | None = None) -> None:
    save_file({"patch_embed.proj.weight": torch.zeros(3, 3)}, folder / "w.safetensors")
    if cut:
        (folder / "w.safetensors").write_bytes((folder / "w.safetensors").read_bytes()[:cut])


def no_numbers(folder: Path) -> None:
    shipped = resources.files("clbench.backbones").joinpath("weights", "vit-micro.safetensors")
    tensors = load(shipped.read_bytes())
    tensors["norm.bias"][7] = torch.nan
    save_file(tensors, folder / "w.safetensors")


def unfinished(spec: str) -> Build:
    def build(folder: Path) -> None:
        (folder / "stopped").mkdir()
        (folder / "stopped" / "spec.toml").write_text(spec)

    return build


CASES = {
    # names
    "unknown stream": Case(["run", "--stream", "split-cifar"], ("'split-cifar'", "split-cifar10")),
    "unknown strategy": Case(["run", "--strategy", "lae-adaptor"], ("'lae-adaptor'", "lae-adapter")),
    "unknown backbone": Case(["run", "--backbone", "vit_tinny_patch16_224"], ("vit_tiny_patch16_224",)),
    "unknown weights tag": Case(["run", "--backbone", "resnet18.a9_in1k"], ("a9_in1k", "resnet18.a1_in1k")),
    "unknown petl": Case(["run", "--petl", "lore"], ("'lore'", "lora", "clbench list petl")),
    "contradiction": Case(["run", "--strategy", "lae-adapter", "--petl", "lora"], ("contradict",)),
    "argument for a stream without": Case(["run", "--stream", "split-digits:x"], ("takes no argument",)),
    "show of unknown": Case(["show", "vit-macro"], ("'vit-macro'", "vit-micro")),
    "list of unknown": Case(["list", "strategy"], ("'strategy'", "strategies")),
    # a strategy of one's own
    "no strategy file": Case(["run", "--strategy", "none.py:ER"], ("no file none.py",)),
    "no such class": Case(
        ["run", "--strategy", "my.py:EH"], ("no 'EH'", "'ER'"), text("my.py", STRATEGY_FILE)
    ),
    "class of another kind": Case(
        ["run", "--strategy", "my.py:NotOne"], ("Strategy",), text("my.py", STRATEGY_FILE)
    ),
    "abstract class": Case(["run", "--strategy", "my.py:ER"], ("abstract",), text("my.py", STRATEGY_FILE)),
    "file that is no Python": Case(
        ["run", "--strategy", "bad.py:ER"], ("bad.py:1",), text("bad.py", "class :")
    ),
    "no such module": Case(["run", "--strategy", "nowhere.er:ER"], ("no module named 'nowhere'",)),
    "no address": Case(["run", "--strategy", ":ER"], ("path/to/file.py:Class",)),
    # the command line
    "unknown option": Case(["run", "--epochs", "3"], ("--epochs", "clbench run --help")),
    "unknown command": Case(["rum"], ("rum",)),
    "option without value": Case(["run", "--stream"], ("--stream",)),
    "report without runs": Case(["report"], ("RUN",)),
    "seed that is no number": Case(["run", "--seed", "one"], ("'one'", "0,1,2")),
    "negative seed": Case(["run", "--seed", "-1"], ("'-1'", ">= 0")),
    "seed twice": Case(["run", "--seed", "1,1"], ("twice",)),
    "device that is not there": Case(["run", "--device", "cuda:7"], ("'cuda:7'", "cpu")),
    "device that is none": Case(["run", "--device", "gpu"], ("'gpu'", "cpu")),
    "unknown precision": Case(["run", "--precision", "fp8"], ("run.precision", "'fp8'", "bf16")),
    "no data folder": Case(["run", "--data-dir", "nowhere"], ("nowhere", "no such folder")),
    # several at once
    "a strategy twice": Case(["run", "--strategy", "er,lae,er"], ("twice",)),
    "the same run twice": Case(["run", "--strategy", "lae,lae-adapter"], ("same run",)),
    "nothing between commas": Case(["run", "--strategy", "er,,lae"], ("no name between",)),
    "one of several unknown": Case(["run", "--strategy", "er,lea"], ("'lea'", "lae")),
    "an option that one of several lacks": Case(
        ["run", "--strategy", "er,lae", "--set", "strategy.ema_decay=0.9"], ("er:", "'ema_decay'")
    ),
    "no jobs": Case(["run", "--jobs", "0"], ("--jobs",)),
    "unknown logger for several": Case(["run", "--seed", "0,1", "--logger", "comet"], ("'comet'",)),
    # what no name or number holds
    "NUL": Case(["run", "--out", "a\0b"], ("NUL",)),
    "escape sequence in a name": Case(["run", "--stream", "folder:\x1b[2J"], (r"\x1b[2J", "not printable")),
    "bytes that are no text": Case(["run", "--stream", "folder:\udce9"], (r"\udce9", "not printable")),
    "control character in a config": Case(
        ["run", "--config", "c.toml"],
        (r"\x00", "not printable"),
        text("c.toml", '[stream]\nname="npz:\\u0000"'),
    ),
    "control character in an unknown word": Case(["run", "--\x1b[31m"], (r"\x1b[31m",)),
    "too long a name": Case(
        ["run", "--stream", "folder:" + "x" * 5000],
        ("x" * 100,),  # and "File name too long" or, with Python 3.14, "no folder"
    ),
    "too long a folder": Case([*RUN, "--out", "x" * 300], ("x" * 300, "too long")),
    "too long a seed": Case(["run", "--seed", "9" * 5000], ("18 digits",)),
    "too long a number": Case([*MICRO, "strategy.epochs=" + "9" * 5000], ("strategy.epochs",)),
    "report of a name too long": Case(["report", "x" * 300], ("x" * 300,)),
    "resume of a name too long": Case(["resume", "x" * 300], ("x" * 300,)),
    "show of a name too long": Case(["show", "x" * 300], ("x" * 300,)),
    # a report's wishes
    "unknown metric": Case(["report", "runs", "--metrics", "acuracy"], ("'acuracy'", "'accuracy'")),
    "no metric": Case(["report", "runs", "--metrics", ","], ("--metrics",)),
    "unknown kind of figure": Case(["report", "runs", "--figures", "psd"], ("'psd'", "pdf, svg")),
    "csv of names": Case(["list", "streams", "--csv", "x.csv"], ("list petl",)),
    # --set
    "setting without value": Case([*MICRO, "strategy.epochs"], ("section.name=value",)),
    "setting without section": Case([*MICRO, "epochs=3"], ("section.name=value",)),
    "setting of unknown section": Case([*MICRO, "stategy.epochs=3"], ("'stategy'", "'strategy'")),
    "setting of unknown option": Case([*MICRO, "strategy.ema_decoy=1"], ("'ema_decoy'", "'ema_decay'")),
    "setting of unknown run option": Case([*MICRO, "run.sede=1"], ("'sede'", "'seed'")),
    "setting of wrong type": Case([*MICRO, "strategy.epochs=many"], ("strategy.epochs", "'many'", "integer")),
    "setting out of range": Case([*MICRO, "strategy.ema_decay=1.5"], ("strategy.ema_decay", "'1.5'", "1")),
    "infinite setting": Case([*MICRO, "strategy.learning_rate=inf"], ("strategy.learning_rate", "finite")),
    "setting that is no choice": Case([*MICRO, "strategy.optimizer=lion"], ("'lion'", "'adamw'")),
    # --config
    "config missing": Case(["run", "--config", "c.toml"], ("c.toml", "No such file")),
    "config is a folder": Case(["run", "--config", "."], ("--config", "directory")),
    "config is no text": Case(["run", "--config", "c.toml"], ("UTF-8",), text("c.toml", b"\xff\xfe\x00")),
    "config is no TOML": Case(["run", "--config", "c.toml"], ("c.toml", "TOML"), text("c.toml", "a: 1\n")),
    "config with unknown section": Case(
        ["run", "--config", "c.toml"], ("[stram]", "'stream'"), text("c.toml", "[stram]\nname = 'npz'\n")
    ),
    "config without sections": Case(["run", "--config", "c.toml"], ("[run]",), text("c.toml", "run = 1\n")),
    "config with unknown option": Case(
        ["run", "--config", "c.toml"], ("'sead'", "'seed'"), text("c.toml", "[run]\nsead = 1\n")
    ),
    "config with a list": Case(
        ["run", "--config", "c.toml"],
        ("strategy.epochs", "[1]"),
        text("c.toml", "[strategy]\nepochs = [1]\n"),
    ),
    # data
    "data not found": Case(
        ["run", "--stream", "split-imagenet-r"], ("imagenet-r.npz", "--data-dir", "split-digits")
    ),
    "no image folder": Case(FOLDER, ("no folder", "images")),
    "no class folders": Case(FOLDER, ("class folders",), lambda folder: (folder / "images").mkdir()),
    "empty class folder": Case(FOLDER, ("eel", "empty"), images_and_empty_class),
    "corrupt image": Case(FOLDER, ("2.png",), images_and_corrupt_one),
    "no npz": Case(NPZ, ("images.npz", "no such file")),
    "npz that is none": Case(NPZ, ("images.npz",), text("images.npz", "just text")),
    "npz without a key": Case(NPZ, ("no test_y", "train_x"), npz(test_y=None)),
    "npz of floats": Case(NPZ, ("train_x", "float", "uint8"), npz(train_x=np.zeros((12, 8, 8, 3)))),
    "npz of objects": Case(NPZ, ("images.npz",), npz(train_y=np.array([{}] * 12, dtype=object))),
    "npz of unequal lengths": Case(NPZ, ("12 images", "11 labels"), npz(train_y=np.arange(11) % 3)),
    "negative label": Case(NPZ, ("-1",), npz(train_y=np.arange(12) % 3 - 1)),
    "label beyond the names": Case(NPZ, ("2",), npz(names=np.array(["cat", "dog"]))),
    # the protocol
    "more tasks than classes": Case([*RUN, "--set", "stream.tasks=11"], ("11", "10")),
    "no tasks": Case([*RUN, "--set", "stream.tasks=0"], ("0",)),
    "no protocol": Case([*RUN, "--set", "stream.tasks=C0-Inc2"], ("C0-Inc2", "B0-Inc10")),
    "first task too large": Case([*RUN, "--set", "stream.tasks=B50-Inc10"], ("B50-Inc10", "10")),
    "unknown class order": Case([*RUN, "--set", "stream.order=lae-4"], ("lae-4", "lae-3")),
    "unknown augmentation": Case([*RUN, "--set", "stream.augment=rrc-flop"], ("rrc-flop", "rrc-flip")),
    # weights
    "no weights file": Case([*MICRO, "backbone.weights=w.safetensors"], ("no file w.safetensors",)),
    "weights that are no numbers": Case(
        [*RUN, "--set", "backbone.weights=w.safetensors"],
        ("backbone.weights: w.safetensors: norm.bias holds nan", "1 of 128 places, the first nan at [7]"),
        no_numbers,
    ),
    "weights of unknown kind": Case([*MICRO, "backbone.weights=pretrained"], ("pretrained", ".safetensors")),
    "unreadable weights": Case(
        [*MICRO, "backbone.weights=w.pth"], ("cannot read w.pth",), text("w.pth", "no weights")
    ),
    "truncated weights": Case(
        [*MICRO, "backbone.weights=w.safetensors"], ("w.safetensors",), lambda folder: weights(folder, cut=40)
    ),
    "wrong-shaped weights": Case(
        [*MICRO, "backbone.weights=w.safetensors"], ("patch_embed.proj.weight", "(3, 3)"), weights
    ),
    "impossible image size": Case([*MICRO, "backbone.image_size=30"], ("backbone.image_size", "24 or 32")),
    # records
    "file in the place of the out folder": Case([*RUN, "--out", "out"], ("out",), text("out", "precious")),
    "resume of nothing": Case(["resume", "nowhere"], ("nowhere", "no such folder")),
    "resume of a folder that is no record": Case(["resume", "."], ("spec.toml",)),
    "resume of a broken record": Case(
        ["resume", "stopped"], ("spec.toml", "strategy"), unfinished("[stream]\n")
    ),
    "report of nothing": Case(["report", "nowhere"], ("nowhere",)),
    "report of an empty folder": Case(["report", "runs/empty"], ("runs/empty",)),
    # training
    "learning rate too high": Case([*RUN, "--set", "strategy.learning_rate=1e38"], ("learning_rate",)),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to type in, that an earlier record lies in, on a machine without an accelerator."""
    folder = tmp_path / "here"
    (folder / "runs" / "empty").mkdir(parents=True)
    (folder / "runs" / "earlier").mkdir()
    (folder / "runs" / "earlier" / "metrics.json").write_text("{}")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CLBENCH_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache")
    monkeypatch.setattr("clbench.devices.available", lambda: ["cpu"])
    return folder


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_one_line_says_what_is_wrong(name: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    case.build(here)
    before = files(here)
    assert main(case.words) == 2
    told = capfd.readouterr().err
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, told
    assert "Traceback" not in told
    assert len(lines[0]) < 1500
    assert all(word in lines[0] for word in case.told), lines[0]
    assert before.items() <= files(here).items()


def test_a_disk_that_fills_up_costs_nothing_but_the_time_until_there_is_space(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flush, calls = os.fsync, iter(range(1000))

    def fsync(descriptor: int) -> None:
        if next(calls) == 15:  # of about 40; in a checkpoint of the second task
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    command = [*RUN, "--strategy", "naive", "--set", "stream.tasks=3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert main(command) == 2
    *_, advice, error = capfd.readouterr().err.splitlines()
    assert error.startswith("error: cannot write")
    assert "no space left" in error
    assert advice.startswith("then go on with: clbench resume ")
    assert main(advice.partition("clbench ")[2].split()) == 0
    assert main([*command, "--out", "undisturbed"]) == 0
    stopped, undisturbed = (
        next(Record.open(path.parent) for path in (here / out).glob("*/spec.toml"))
        for out in ("runs", "undisturbed")
    )
    assert stopped.read_json("metrics.json") == undisturbed.read_json("metrics.json")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC])
def test_a_refusal_of_the_file_system_names_the_file(
    number: int, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, **_: object) -> None:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("clbench.cli.showing.showing", refuse)
    assert main(["show", "lae"]) == 2
    assert capfd.readouterr().err == f"error: some/file: {os.strerror(number)}\n"


def test_a_bug_keeps_its_traceback(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("clbench.cli.showing.showing", fail)
    with pytest.raises(ZeroDivisionError):
        main(["show", "lae"])
