"""What was learnt is asked about pictures, learns on and is shipped, from the command line."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

import clbench
from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.cli.app import main
from clbench.deploy.bundled_backbone import weights_of
from clbench.deploy.learner import Learner

pytestmark = pytest.mark.usefixtures("no_figures")

SMALL = ["--set", "stream.train_per_class=8", "--set", "stream.test_per_class=4"]
FEW = ["--set", "stream.train_per_class=4", "--set", "stream.test_per_class=2"]
Captured = pytest.CaptureFixture[str]


def on_a_machine_without_an_accelerator(patch: pytest.MonkeyPatch, cache: Path) -> None:
    patch.delenv("CLBENCH_DATA", raising=False)
    patch.setenv("COLUMNS", "100")
    patch.setattr("platformdirs.user_cache_path", lambda name: cache)
    patch.setattr("clbench.devices.available", lambda: ["cpu"])


def made(out: Path, *words: str) -> Path:
    """The folder of a run."""
    with pytest.MonkeyPatch.context() as patch:
        on_a_machine_without_an_accelerator(patch, out / "cache")
        assert main(["run", "--out", str(out / "runs"), *words]) == 0
    (folder,) = (out / "runs").iterdir()
    return folder


@pytest.fixture(scope="session")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose scores are no probabilities; nobody writes into it."""
    return made(tmp_path_factory.mktemp("learnt"), "--strategy", "simplecil", *SMALL)


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run taught task by task, with a memory, whose scores are probabilities."""
    options = ["strategy.epochs=1", "strategy.memory_size=20", "stream.tasks=2", "stream.scenario=task"]
    settings = [word for option in options for word in ("--set", option)]
    return made(tmp_path_factory.mktemp("taught"), "--strategy", "er-linear", *settings, *FEW)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to type in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    on_a_machine_without_an_accelerator(monkeypatch, tmp_path / "cache")
    return folder


@pytest.fixture
def digits(here: Path) -> Path:
    """Class folders with pictures of 0, 1 and 2, three of each, as the stream's images are."""
    data = load_digits()
    for name in (0, 1, 2):
        folder = here / "digits" / str(name)
        folder.mkdir(parents=True)
        for place in np.flatnonzero(data.target == name)[:3]:
            pixels = (data.images[place] * 255 / 16).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{place:02}.png")
    return Path("digits")


def draw(folder: Path, names: tuple[str, ...], count: int = 5) -> None:
    """Class folders of striped pictures."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((8, 8), 20 * index, np.uint8)
            pixels[:, number :: 2 + number] = 250
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


# predict


def test_a_table_names_the_class_of_each_picture(learnt: Path, digits: Path, capsys: Captured) -> None:
    some = files(digits)[:2]
    assert main(["predict", str(learnt), *map(str, some)]) == 0
    printed, told = capsys.readouterr()
    expected = clbench.load(learnt).predict([*some])
    lines = [line.split() for line in printed.splitlines() if "png" in line]
    assert lines == [
        [str(file), name, f"{score:.3f}"] for file, [(name, score)] in zip(some, expected.top(1), strict=True)
    ]
    assert re.search(r"file +class +score", printed)
    assert "probability" not in printed
    assert told == "split-digits · simplecil · vit-micro · linear · seed 0\n"


def test_csv_holds_every_number_in_full_and_stands_alone(
    learnt: Path, digits: Path, capsys: Captured, here: Path
) -> None:
    assert main(["predict", str(learnt), str(digits), "--format", "csv", "--top", "2"]) == 0
    printed, told = capsys.readouterr()
    expected = clbench.load(learnt).predict([*files(digits)]).top(2)
    pairs = [pair for highest in expected for pair in highest]
    assert [(row["class"], float(row["score"])) for row in rows(printed)] == pairs
    assert [row["rank"] for row in rows(printed)] == ["1", "2"] * 9
    assert [row["folder"] for row in rows(printed)] == ["0"] * 6 + ["1"] * 6 + ["2"] * 6
    assert "accuracy" in told
    assert sorted(each.name for each in here.iterdir()) == ["digits"]
    assert (
        main(["predict", str(learnt), str(digits), "--format", "csv", "--top", "2", "--out", "a/b.csv"]) == 0
    )
    assert (here / "a" / "b.csv").read_text() == printed
    assert "written: a/b.csv" in capsys.readouterr().out


def test_json_holds_the_five_highest_and_what_is_right(learnt: Path, digits: Path, capsys: Captured) -> None:
    (digits / "1" / "bad.png").write_bytes(b"nothing")
    assert main(["predict", str(learnt), str(digits), "--format", "json", "--top", "5"]) == 1
    value = json.loads(capsys.readouterr().out)
    assert [len(each["predictions"]) for each in value["pictures"]] == [5] * 9
    right = [each["predictions"][0]["class"] == each["folder"] for each in value["pictures"]]
    assert value["accuracy"] == np.mean(right)
    assert value["num_in_class_folders"] == 9
    scores = [each["score"] for each in value["pictures"][0]["predictions"]]
    assert scores == sorted(scores, reverse=True)
    assert value["unreadable"] == [
        {
            "file": "digits/1/bad.png",
            "reason": "cannot read the image digits/1/bad.png: not an image, or damaged",
        }
    ]


def test_class_folders_give_an_accuracy_and_a_picture_of_what_is_taken_for_what(
    learnt: Path, digits: Path, capsys: Captured, here: Path
) -> None:
    draw(digits, ("cat", "dog"), count=2)
    assert main(["predict", str(learnt), str(digits), "--top", "3"]) == 0
    printed = capsys.readouterr().out
    right = [
        name == file.parent.name for file, name in named(learnt, files(digits)) if len(file.parent.name) == 1
    ]
    percent = f"{100 * np.mean(right):.1f}"
    assert f"accuracy {percent} %: {sum(right)} of n = 9 pictures, in folders of 3 of 10 classes" in printed
    assert "no classes of the learner, left out of the accuracy: cat, dog (4 pictures)" in printed
    assert "written: digits-confusion.png" in printed
    with Image.open(here / "digits-confusion.png") as picture:
        assert min(picture.size) > 600
    assert main(["predict", str(learnt), "digits", "--figure", "figures/a.svg"]) == 0
    assert (here / "figures" / "a.svg").read_bytes().startswith(b"<?xml")


def named(learnt: Path, some: list[Path]) -> list[tuple[Path, str]]:
    return list(zip(some, clbench.load(learnt).predict([*some]).names, strict=True))


def test_the_picture_does_not_lie_among_the_pictures(
    learnt: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, here: Path
) -> None:
    monkeypatch.chdir(digits)
    before = content(here / "digits")
    assert main(["predict", str(learnt), "."]) == 0
    assert content(here / "digits") == before
    assert (here / "digits-confusion.png").is_file()


def test_of_a_stream_s_folder_the_test_part_is_taken(learnt: Path, digits: Path, capsys: Captured) -> None:
    shutil.copytree(digits, "whole/test")
    shutil.copytree(digits, "whole/train")
    assert main(["predict", str(learnt), "whole", "--format", "csv"]) == 0
    printed, told = capsys.readouterr()
    assert [row["file"] for row in rows(printed)] == [str(file) for file in files(Path("whole/test"))]
    assert "of whole the pictures in test/ are taken" in told
    assert "of n = 9 pictures" in told


def test_a_picture_that_cannot_be_read_costs_the_others_nothing(
    learnt: Path, digits: Path, capsys: Captured
) -> None:
    for name in ("a", "b"):
        (digits / f"{name}.png").write_bytes(b"nothing")
    (digits / "notes.txt").write_text("no picture")
    assert main(["predict", str(learnt), str(digits), "--format", "csv"]) == 1
    printed, told = capsys.readouterr()
    assert len(rows(printed)) == 9
    assert told.count("cannot read the image") == 2
    assert "not read in digits: 1 file with another ending (.txt)" in told
    assert main(["predict", str(learnt), "digits/a.png", "digits/b.png", "--format", "csv"]) == 2
    printed, told = capsys.readouterr()
    assert not printed
    assert told.splitlines()[-1] == "error: none of 2 pictures could be read"


@pytest.mark.slow
def test_thousands_are_asked_about_in_batches(
    learnt: Path, digits: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    predict = Learner.predict

    def counted(learner: Learner, images: np.ndarray, **rest: int | None) -> object:
        sizes.append(len(images))
        return predict(learner, images, **rest)

    monkeypatch.setattr(Learner, "predict", counted)
    names = [str(file) for file in files(digits)] * 60
    assert main(["predict", str(learnt), *names, "--format", "csv"]) == 0
    assert len(rows(capsys.readouterr().out)) == 540
    assert sizes == [256, 256, 28]


def test_a_learner_taught_task_by_task_is_told_the_task(taught: Path, digits: Path, capsys: Captured) -> None:
    draw(digits, ("7",), count=2)
    assert main(["predict", str(taught), "digits", "--task", "1", "--top", "9"]) == 0
    printed = capsys.readouterr().out
    first = next(line for line in printed.splitlines() if "0/" in line)
    assert re.search(r"file +class +probability", printed)
    assert re.search(r" \d+\.\d % ", first)
    assert sum("%" in line for line in printed.splitlines()) == 5 * 11 + 1  # of 5 classes, and the accuracy
    assert "in folders of 3 of 5 classes" in printed
    assert "left out of the accuracy: 7 (2 pictures)" in printed
    assert main(["predict", str(taught), "digits", "--task", "2", "--format", "json", "--top", "9"]) == 0
    value = json.loads(capsys.readouterr().out)
    for each in value["pictures"]:
        assert {one["class"] for one in each["predictions"]} == set("56789")
        assert sum(one["probability"] for one in each["predictions"]) == pytest.approx(1, abs=1e-5)


# learn


def test_it_learns_on_and_the_old_record_stays_as_it_is(learnt: Path, here: Path, capsys: Captured) -> None:
    draw(here / "new", ("bar", "cross"))
    before = content(learnt)
    assert main(["learn", str(learnt), "--stream", "folder:new", "--out", "on"]) == 0
    printed, told = capsys.readouterr()
    assert content(learnt) == before
    (child,) = (here / "on").iterdir()
    assert told.startswith("folder · simplecil · vit-micro · linear · seed 0\n")
    assert "learnt before: tasks 1 to 5 of split-digits, tested again" in told
    assert f"record: on/{child.name}\nnext:\n" in printed
    assert f"  clbench predict on/{child.name} IMAGE...\n" in printed
    assert f"  clbench learn on/{child.name} --stream folder:PATH\n" in printed
    assert (child / "command.txt").read_text().startswith("clbench learn ")
    assert clbench.load(child).class_names == [*map(str, range(10)), "bar", "cross"]
    assert main(["predict", str(child), "new"]) == 0
    assert "10 pictures, in folders of 2 of 12 classes" in capsys.readouterr().out
    assert main(["run", "--config", f"on/{child.name}/spec.toml"]) == 2
    assert "clbench learn RUN|BUNDLE --stream NAME" in capsys.readouterr().err


@pytest.mark.slow
def test_it_learns_on_with_the_weights_it_was_learnt_on_and_no_others(here: Path, capsys: Captured) -> None:
    draw(here / "new", ("bar", "cross"))
    for seed in (0, 1):
        backbone = backbones.create("vit-micro", BackboneOptions(weights="none"), seed=seed)
        save_file(weights_of(backbone), f"{seed}.safetensors")
    (here / "w.safetensors").write_bytes((here / "0.safetensors").read_bytes())
    words = ["--strategy", "simplecil", "--set", "backbone.weights=w.safetensors", *FEW]
    assert main(["run", *words]) == 0
    (folder,) = (here / "runs").iterdir()
    assert main(["export", str(folder), "--out", "bundle"]) == 0
    loaded = clbench.load(folder)
    (here / "w.safetensors").write_bytes((here / "1.safetensors").read_bytes())
    capsys.readouterr()
    assert main(["learn", "bundle", "--stream", "folder:new", "--out", "on"]) == 0  # it has its own
    assert main(["learn", str(folder), "--stream", "folder:new", "--out", "off"]) == 2
    assert "learnt on other weights of vit-micro" in capsys.readouterr().err
    with pytest.raises(
        clbench.UserError, match="cannot learn on: it was learnt on other weights of vit-micro"
    ):
        loaded.learn("folder:new", out="off")
    assert not (here / "off").exists()


# export


def test_a_bundle_predicts_what_the_run_does(
    learnt: Path, digits: Path, here: Path, capsys: Captured
) -> None:
    assert main(["export", str(learnt), "--out", "bundle"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^  learner.json +\S+ kB  10 class names, the run's options$", printed, re.MULTILINE)
    assert re.search(
        r"^  learner.safetensors +\S+ MB  the backbone's weights, what was learnt$", printed, re.M
    )
    assert "left out" not in printed
    assert "clbench predict bundle IMAGE...\n" in printed
    assert "clbench learn bundle --stream folder:PATH\n" in printed
    assert sorted(content(here / "bundle")) == ["learner.json", "learner.safetensors"]
    answers = []
    for learner in (str(learnt), "bundle"):
        assert main(["predict", learner, "digits", "--format", "csv", "--top", "3"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert main(["export", str(learnt), "--out", "small", "--without-backbone"]) == 0
    assert "left out: the weights of vit-micro" in capsys.readouterr().out
    assert (here / "small" / "learner.safetensors").stat().st_size < 20_000


def test_exemplars_stay_here_unless_they_are_asked_for(taught: Path, here: Path, capsys: Captured) -> None:
    assert main(["export", str(taught), "--out", "without"]) == 0
    printed = capsys.readouterr().out
    assert (
        "left out: 20 exemplars (training pictures): it predicts, but cannot learn on;"
        " --exemplars takes them along\n" in printed
    )
    assert "clbench learn" not in printed
    assert main(["export", str(taught), "--out", "with", "--exemplars"]) == 0
    printed = capsys.readouterr().out
    assert "left out" not in printed
    assert "20 exemplars (training pictures) that whoever has it can see" in printed
    assert main(["learn", "without", "--stream", "split-digits"]) == 2
    assert "--exemplars" in capsys.readouterr().err
    assert main(["export", "without", "--out", "again", "--exemplars"]) == 2
    assert "no exemplars" in capsys.readouterr().err


def test_a_bundle_tells_which_paths_it_names(learnt: Path, here: Path, capsys: Captured) -> None:
    draw(here / "new", ("bar", "cross"))
    assert main(["learn", str(learnt), "--stream", f"folder:{here}/new", "--out", "on"]) == 0
    (child,) = (here / "on").iterdir()
    capsys.readouterr()
    assert main(["export", str(child), "--out", "bundle"]) == 0
    assert (
        f"mind: learner.json names paths of this machine: stream.path={here}/new\n" in capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_onnx_is_written_and_checked(where: str, learnt: Path, here: Path, capsys: Captured) -> None:
    import onnxruntime

    words = ["--format", "onnx", "--preprocessing", where]
    assert main(["export", str(learnt), "--out", "a.onnx", *words]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^written: a\.onnx  .* MB, opset \d+, preprocessing {where}: it takes ", printed)
    assert "checked: of 16 generated pictures" in printed
    assert "16 of 16 have the same class" in printed
    (given,) = onnxruntime.InferenceSession("a.onnx").get_inputs()
    assert given.name == {"inside": "pixels", "outside": "images"}[where]
    assert main(["export", str(learnt), "--out", "a.onnx", *words]) == 2
    assert "a.onnx is there already; nothing is overwritten" in capsys.readouterr().err


# what is in somebody's file


@pytest.mark.slow
def test_a_bundle_of_somebody_s_strategy_asks_for_the_file_again(
    here: Path, digits: Path, capsys: Captured
) -> None:
    code = Path(clbench.strategies.get("simplecil").__module__.replace(".", "/"))
    (here / "mine.py").write_text(
        (Path(clbench.__file__).parents[1] / "strategies" / f"{code.name}.py")
        .read_text()
        .replace('@register("simplecil", petl="linear")\n', "")
        .replace("class SimpleCIL", "class Mine")
    )
    assert main(["run", "--strategy", "mine.py:Mine", *FEW]) == 0
    (folder,) = (here / "runs").iterdir()
    assert main(["export", str(folder), "--out", "bundle"]) == 0
    printed = capsys.readouterr().out
    assert "not in it: the code of strategy mine.py:Mine" in printed
    assert "clbench predict bundle IMAGE... --strategy mine.py:Mine\n" in printed
    assert main(["predict", "bundle", "digits"]) == 2
    assert "--strategy FILE.py:NAME" in capsys.readouterr().err
    assert main(["predict", "bundle", "digits", "--strategy", "mine.py:Mine"]) == 0


# what is wrong


@dataclass(frozen=True)
class Case:
    """A command, what is done before, and words that the one line must have. RUN is the run's folder."""

    words: str
    told: tuple[str, ...]
    build: Callable[[Path], object] = lambda folder: None


def changed_bundle(folder: Path) -> None:
    (file,) = folder.glob("bundle/*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"?")


CASES = {
    "no such learner": Case("predict nowhere digits", ("nowhere", "no such folder")),
    "no learner": Case("predict digits digits", ("digits", "spec.toml", "learner.json")),
    "folder of runs": Case("predict RUNS digits", ("such as", "simplecil")),
    "broken spec": Case(
        "predict digits digits", ("spec.toml", "TOML"), lambda f: (f / "digits/spec.toml").write_text("a: 1")
    ),
    "broken bundle": Case(
        "predict digits digits", ("learner.json",), lambda f: (f / "digits/learner.json").write_text("[1]")
    ),
    "bundle changed": Case("predict bundle digits", ("changed",), changed_bundle),
    "no such picture": Case("predict RUN none.png", ("none.png",)),
    "no picture in a folder": Case("predict RUN empty", ("empty", ".png"), lambda f: (f / "empty").mkdir()),
    "unknown format": Case("predict RUN digits --format tabel", ("'tabel'", "'table'")),
    "table into a file": Case("predict RUN digits --out a.csv", ("--format csv",)),
    "no classes to show": Case("predict RUN digits --top 0", ("--top",)),
    "figure without class folders": Case("predict RUN digits/0 --figure a.png", ("--figure",)),
    "figure of another kind": Case("predict RUN digits --figure a.xyz", ("a.xyz", ".png")),
    "task for all classes": Case("predict RUN digits --task 1", ("--task", "all classes")),
    "no task": Case("predict TAUGHT digits", ("--task 1 to 2",)),
    "task zero": Case("predict TAUGHT digits --task 0", ("--task 0", "tasks 1 to 2")),
    "task too large": Case("predict TAUGHT digits --task 3", ("--task 3", "tasks 1 to 2")),
    "device that is not there": Case("predict RUN digits --device cuda", ("'cuda'", "cpu")),
    "no data folder": Case("predict RUN digits --data-dir nowhere", ("nowhere",)),
    "no weights": Case("predict RUN digits --weights none.safetensors", ("none.safetensors",)),
    "learn without a stream": Case("learn RUN", ("--stream",)),
    "learn an unknown stream": Case("learn RUN --stream folders:digits", ("'folders'", "folder")),
    "learn no folder": Case("learn RUN --stream folder:nowhere", ("nowhere",)),
    "unknown section": Case(
        "learn RUN --stream folder:digits --set stategy.a=1", ("'stategy'", "'strategy'")
    ),
    "unknown option": Case(
        "learn RUN --stream folder:digits --set strategy.epoch=1", ("'epoch'", "'epochs'")
    ),
    "unknown stream option": Case(
        "learn RUN --stream folder:digits --set stream.tusks=1", ("'tusks'", "'tasks'")
    ),
    "unknown run option": Case("learn RUN --stream folder:digits --set run.sede=1", ("'sede'", "'seed'")),
    "option that is fixed": Case("learn RUN --stream folder:digits --set run.seed=3", ("run.seed",)),
    "section that is fixed": Case(
        "learn RUN --stream folder:digits --set petl.rank=3", ("petl.rank", "stream")
    ),
    "learn on a device that is not there": Case("learn RUN --stream folder:digits --device mps", ("'mps'",)),
    "target is there": Case("export RUN --out digits", ("digits", "nothing is overwritten")),
    "export to nowhere": Case("export RUN", ("--out",)),
    "unknown export": Case("export RUN --out b --format onyx", ("'onyx'", "'onnx'")),
    "unknown preprocessing": Case(
        "export RUN --out b --format onnx --preprocessing in", ("'in'", "'inside'")
    ),
    "preprocessing of a bundle": Case("export RUN --out b --preprocessing inside", ("--format onnx",)),
    "exemplars in ONNX": Case("export RUN --out b --format onnx --exemplars", ("--format bundle",)),
}


@pytest.fixture(scope="session")
def bundle(learnt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as a bundle."""
    return clbench.load(learnt).save(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture
def typed(
    learnt: Path, bundle: Path, digits: Path, here: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], list[str]]]:
    """A function that puts the folders in; nothing that was there is changed."""
    shutil.copytree(bundle, here / "bundle")
    before = content(learnt)

    def words(command: str) -> list[str]:
        folders = {"RUN": learnt, "RUNS": learnt.parent}
        if "TAUGHT" in command:
            folders["TAUGHT"] = request.getfixturevalue("taught")
        return [str(folders.get(word, word)) for word in command.split()]

    yield words
    assert content(learnt) == before


@pytest.mark.parametrize("name", CASES)
def test_one_line_says_what_is_wrong(
    name: str, typed: Callable[[str], list[str]], here: Path, capsys: Captured
) -> None:
    case = CASES[name]
    case.build(here)
    words = typed(case.words)
    capsys.readouterr()  # of a run that was made just now
    assert main(words) == 2
    printed, told = capsys.readouterr()
    assert not printed
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, told
    assert "Traceback" not in told
    assert all(word in lines[0] for word in case.told), lines[0]
    assert not (here / "runs").exists()
