"""Streams on small stand-ins in the real layouts: what they read, what they keep, what they refuse."""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar
from urllib.error import URLError

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clbench import streams
from clbench.avalanche.experiences import experiences
from clbench.data.folders import list_folder
from clbench.errors import UserError
from clbench.outside.mistakes import PluginError
from clbench.seeds import Seeds
from clbench.streams import DataNotFoundError, Places, Source, Stream
from clbench.testing import check_stream

Make = Callable[..., Stream]
RANDOM = np.random.default_rng(0)


def pixels(*shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, size=shape, dtype=np.uint8)


def write_images(folder: Path, count: int, height: int = 8, width: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(pixels(height, width, 3)).save(folder / f"{number}.png")


def write_npz(file: Path, num_classes: int = 4, **changes: NDArray[np.generic]) -> Path:
    arrays: dict[str, NDArray[np.generic]] = {
        "train_x": pixels(num_classes * 6, 8, 8, 3),
        "train_y": np.tile(np.arange(num_classes, dtype=np.uint8), 6),
        "test_x": pixels(num_classes * 2, 8, 8, 3),
        "test_y": np.tile(np.arange(num_classes, dtype=np.uint8), 2),
    }
    np.savez_compressed(file, **{**arrays, **changes})
    return file


def in_places(tmp_path: Path) -> Places:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    return Places(data, tmp_path / "cache")


def digits(data: Path, patch: pytest.MonkeyPatch) -> Make:
    return streams.get("split-digits")


def cifar10(data: Path, patch: pytest.MonkeyPatch) -> Make:
    for name in ("cat", "dog", "emu", "fox", "gnu"):
        write_images(data / "cifar10" / "train" / name, 5)
        write_images(data / "cifar10" / "test" / name, 2)
    return streams.get("split-cifar10")


def cifar100(data: Path, patch: pytest.MonkeyPatch) -> Make:
    """Write torchvision's layout, whose files it checks by MD5."""
    from torchvision.datasets import CIFAR100

    folder = data / CIFAR100.base_folder
    folder.mkdir()
    content = {
        "train": {"data": pixels(40, 3072), "fine_labels": list(range(10)) * 4},
        "test": {"data": pixels(20, 3072), "fine_labels": list(range(10)) * 2},
        "meta": {"fine_label_names": [f"fine {number}" for number in range(10)]},
    }
    sums = {}
    for name, value in content.items():
        (folder / name).write_bytes(pickle.dumps(value))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    patch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    patch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    patch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    return streams.get("split-cifar100")


def tiny_imagenet(data: Path, patch: pytest.MonkeyPatch) -> Make:
    """Write the layout of the official archive, where a text file labels the validation part."""
    root = data / "tiny-imagenet-200"
    names = [f"n0{number}" for number in range(10)]
    for name in names:
        write_images(root / "train" / name / "images", 3, 16, 16)
    write_images(root / "val" / "images", 20, 16, 16)
    write_images(root / "test" / "images", 3, 16, 16)  # without labels: not to be read
    lines = [f"{number}.png\t{names[number % 10]}\t0\t0\t62\t62" for number in range(20)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    return streams.get("split-tiny-imagenet")


def imagenet_r(data: Path, patch: pytest.MonkeyPatch) -> Make:
    for number in range(10):
        write_images(data / "imagenet-r" / f"n0{number}", 5, 20 + number, 30)
    (data / "imagenet-r" / "README.txt").write_text("not an image")
    return partial(streams.get("split-imagenet-r"), stored_size=16)


def folder(data: Path, patch: pytest.MonkeyPatch) -> Make:
    for name in ("ant", "bee", "cow"):
        write_images(data / "tree" / name, 5)
    return partial(streams.get("folder"), tasks="3", path=str(data / "tree"))


def npz(data: Path, patch: pytest.MonkeyPatch) -> Make:
    return partial(streams.get("npz"), tasks="2", file=str(write_npz(data / "some.npz")))


def avalanche(data: Path, patch: pytest.MonkeyPatch) -> Make:
    """Write MNIST's files, 30 + 20 images, for Avalanche's SplitMNIST."""
    raw = data / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 30), ("t10k", 20)):
        images = struct.pack(">iiii", 2051, count, 28, 28) + pixels(count, 28, 28).tobytes()
        labels = struct.pack(">ii", 2049, count) + bytes(number % 10 for number in range(count))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return partial(streams.get("avalanche"), benchmark="SplitMNIST")


STAND_INS: dict[str, Callable[[Path, pytest.MonkeyPatch], Make]] = {
    "avalanche": avalanche,
    "folder": folder,
    "npz": npz,
    "split-cifar10": cifar10,
    "split-cifar100": cifar100,
    "split-digits": digits,
    "split-imagenet-r": imagenet_r,
    "split-tiny-imagenet": tiny_imagenet,
}


@pytest.mark.parametrize("name", STAND_INS)
def test_every_stream_keeps_the_contract(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = in_places(tmp_path)
    assert places.data_dir is not None
    check_stream(STAND_INS[name](places.data_dir, monkeypatch), places)


def load(make: Make, tmp_path: Path, **options: str | int) -> Source:
    return make(**options).load(in_places(tmp_path))


def test_digits_are_scaled_to_bytes_and_a_fifth_of_each_is_tested_on(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    source = load(streams.get("split-digits"), tmp_path)
    grey = load_digits().images
    assert source.train.images.shape == (1797, 8, 8, 3)
    assert source.train.images[0, 0, :3, 0].tolist() == [0, 0, 80]  # 0, 0, 5 of 16: 79.7
    assert source.train.images.max() == 255
    assert source.train.images.sum() / 3 == np.rint(grey * 255 / 16).sum()
    per_digit = np.bincount(load_digits().target)
    assert np.bincount(source.test.labels).tolist() == (per_digit // 5).tolist()
    assert streams.get("split-digits").default_augment == "crop"


def test_digits_make_five_tasks_of_two(tmp_path: Path) -> None:
    stream = streams.get("split-digits")().build("split-digits", in_places(tmp_path), Seeds(0))
    assert [task.classes for task in stream.tasks] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert stream.class_names == list("0123456789")


def test_the_npz_file_comes_before_class_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = in_places(tmp_path).data_dir
    assert data is not None
    make = cifar10(data, monkeypatch)
    assert load(make, tmp_path).class_names == ["cat", "dog", "emu", "fox", "gnu"]
    write_npz(data / "cifar10.npz", names=np.array(["a", "b", "c", "d"]))
    assert load(make, tmp_path).class_names == ["a", "b", "c", "d"]


def test_torchvisions_layout_keeps_names_and_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    places = in_places(tmp_path)
    assert places.data_dir is not None
    source = load(cifar100(places.data_dir, monkeypatch), tmp_path)
    theirs = CIFAR100(str(places.data_dir), train=False)
    assert source.class_names[3] == "fine 3"
    assert np.array_equal(source.test.images[source.test.rows], theirs.data)
    assert source.test.labels.tolist() == theirs.targets


def test_a_damaged_torchvision_layout_is_refused_and_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = in_places(tmp_path).data_dir
    assert data is not None
    make = cifar100(data, monkeypatch)
    with open(data / "cifar-100-python" / "train", "ab") as file:
        file.write(b"more")
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(UserError, match="cifar-100-python is incomplete or damaged; remove it"):
        load(make, tmp_path)


def test_tiny_imagenet_is_tested_on_its_annotated_validation_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = in_places(tmp_path).data_dir
    assert data is not None
    source = load(tiny_imagenet(data, monkeypatch), tmp_path)
    assert source.train.images.shape == (50, 16, 16, 3)
    assert source.test.labels.tolist() == [number % 10 for number in range(20)]
    image = np.asarray(Image.open(data / "tiny-imagenet-200" / "val" / "images" / "13.png"))
    assert np.array_equal(source.test.images[source.test.rows[13]], image)


def test_imagenet_r_takes_the_test_images_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = in_places(tmp_path).data_dir
    assert data is not None
    make = imagenet_r(data, monkeypatch)
    names = [f"n0{number}/{number % 5}.png" for number in range(10)]
    chosen = tmp_path / "test.txt"
    chosen.write_text("".join(f"imagenet-r/{name} 7\n" for name in names))
    source = load(make, tmp_path, test_list=str(chosen))
    assert source.test.labels.tolist() == list(range(10))
    assert len(source.train) == 40
    chosen.write_text("n00/9.png")
    with pytest.raises(UserError, match=r"names n00/9.png, not in"):
        load(make, tmp_path, test_list=str(chosen))


def test_avalanches_tasks_order_and_pixels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from avalanche.benchmarks.classic import SplitMNIST

    places = in_places(tmp_path)
    assert places.data_dir is not None
    make = avalanche(places.data_dir, monkeypatch)
    stream = make(n_experiences=2, benchmark_seed=3).build("avalanche", places, Seeds(0))
    theirs = SplitMNIST(2, seed=3, dataset_root=places.data_dir, train_transform=None, eval_transform=None)
    assert stream.class_order == theirs.classes_order_original_ids
    last, other = stream.tasks[1].test, theirs.test_stream[1].dataset
    assert np.array_equal(np.array(stream.class_order)[last.labels], np.array(list(other.targets)))
    for place in range(len(last)):
        image = np.rint(other[place][0][0].numpy() * 255)
        assert np.array_equal(last.images[last.rows[place]], np.repeat(image[..., None], 3, axis=-1))


def test_tasks_are_experiences_that_avalanche_trains_on(tmp_path: Path) -> None:
    import torch
    from avalanche.training.supervised import Naive

    options = {"train_per_class": 8, "order": "1993"}
    stream = streams.get("split-digits")(**options).build("split-digits", in_places(tmp_path), Seeds(0))
    train, test = experiences(stream, "train"), experiences(stream, "test")
    assert [experience.classes_in_this_experience for experience in train][:2] == [{0, 1}, {2, 3}]
    assert train[2].previous_classes == {0, 1, 2, 3}
    assert train[2].task_labels == [0]
    assert [len(experience.dataset) for experience in test] == [len(task.test) for task in stream.tasks]
    image, label, _ = train[0].dataset[0]
    sample = stream.tasks[0].train
    assert label == sample.labels[0]
    assert torch.equal((image * 255).permute(1, 2, 0).byte(), torch.tensor(sample.images[sample.rows[0]]))

    told = experiences(replace(stream, scenario="task"), "train")
    assert [experience.task_labels for experience in told] == [[0], [1], [2], [3], [4]]

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
    before = model[1].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = torch.nn.CrossEntropyLoss()
    with pytest.warns(UserWarning, match="No loggers specified"):
        strategy = Naive(model=model, optimizer=optimizer, criterion=loss, train_mb_size=4, evaluator=None)
    strategy.train(train[0])
    changed = (model[1].weight - before).abs().sum(1)
    assert changed[:2].min() > changed[2:].max()  # the classes of the first experience were learnt


def test_folder_takes_val_as_test_only_where_there_is_no_test(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        write_images(tmp_path / part / "ant", count)
    assert len(list_folder(tmp_path).test) == 2
    write_images(tmp_path / "test" / "ant", 1)
    assert len(list_folder(tmp_path).test) == 1
    assert len(list_folder(tmp_path).train) == 3


def test_folder_without_a_test_part_splits_each_class_in_the_same_way_each_time(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "ant", 10)
    write_images(tmp_path / "train" / "bee", 5)
    first = list_folder(tmp_path)
    assert [label for _, label in first.test] == [0, 0, 1]
    assert len(first.train) == 12
    assert first == list_folder(tmp_path)


def test_folder_passes_over_what_is_no_image(tmp_path: Path) -> None:
    write_images(tmp_path / "ant", 3)
    write_images(tmp_path / "ant" / ".hidden", 2)
    write_images(tmp_path / ".git", 2)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "ant" / ".cover.png").write_bytes(b"no image")
    listing = list_folder(tmp_path)
    assert listing.class_names == ["ant"]
    assert len(listing.train) + len(listing.test) == 3


@pytest.mark.parametrize(
    ("sizes", "stored_size", "kept"),
    [
        ([(8, 8), (8, 8)], 0, (8, 8)),
        ([(8, 12), (8, 12)], 0, (8, 12)),
        ([(8, 8), (8, 9)], 0, (256, 256)),
        ([(300, 300), (300, 300)], 0, (256, 256)),
        ([(8, 8), (8, 9)], 6, (6, 6)),
    ],
)
def test_folder_keeps_one_size(
    sizes: list[tuple[int, int]], stored_size: int, kept: tuple[int, int], tmp_path: Path
) -> None:
    for part, size in zip(("train", "test"), sizes, strict=True):
        write_images(tmp_path / "tree" / part / "ant", 1, *size)
    source = load(streams.get("folder"), tmp_path, path=str(tmp_path / "tree"), stored_size=stored_size)
    assert source.train.images.shape == (2, *kept, 3)


def test_wide_images_are_cut_at_the_centre_and_every_mode_becomes_rgb(tmp_path: Path) -> None:
    wide = pixels(8, 16, 3)
    grey = Image.fromarray(pixels(8, 8))
    palette = Image.fromarray(pixels(8, 8, 3)).quantize(4)
    palette.info["transparency"] = bytes([0, 255, 255, 255])
    pictures = {"0": Image.fromarray(wide), "1": grey, "2": palette, "3": grey.convert("1")}
    for part in ("train", "test"):
        (tmp_path / "tree" / part / "ant").mkdir(parents=True)
        for name, picture in pictures.items():
            picture.save(tmp_path / "tree" / part / "ant" / f"{name}.png")
    source = load(streams.get("folder"), tmp_path, path=str(tmp_path / "tree"), stored_size=8)
    images = source.train.images
    assert np.array_equal(images[0], wide[:, 4:12])
    assert np.array_equal(images[1], np.repeat(np.asarray(grey)[..., None], 3, axis=-1))
    seen = np.asarray(palette.convert("RGBA"))[..., :3].copy()
    seen[np.asarray(palette) == 0] = 255  # what is transparent, on white
    assert np.array_equal(images[2], seen)
    assert set(np.unique(images[3])) <= {0, 255}


def test_npz_reads_grey_images_as_rgb_and_names_classes_by_number(tmp_path: Path) -> None:
    grey = pixels(24, 5, 7)
    file = write_npz(tmp_path / "grey.npz", train_x=grey, test_x=pixels(8, 5, 7))
    source = load(streams.get("npz"), tmp_path, file=str(file))
    assert np.array_equal(source.train.images[:24], np.repeat(grey[..., None], 3, axis=-1))
    assert source.class_names == ["0", "1", "2", "3"]


def write_text(path: Path) -> str:
    path.write_text("this is text")
    return str(path)


def shortened(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-100])
    return str(path)


@pytest.mark.parametrize(
    ("make_file", "said"),
    [
        (lambda at: str(at), "no such file"),
        (lambda at: write_text(at), "as .npz: File is not a zip file"),
        (lambda at: shortened(write_npz(at)), "as .npz:"),
        (lambda at: np.savez(at, train_x=pixels(2, 2, 2, 3)), "has no train_y, test_x, test_y (needed:"),
        (lambda at: write_npz(at, train_x=np.zeros((24, 8, 8, 3))), "train_x is float64"),
        (lambda at: write_npz(at, train_x=pixels(24, 3, 8, 8)), "(24, 3, 8, 8)"),
        (lambda at: write_npz(at, test_x=pixels(8, 4, 4, 3)), "differ in image size"),
        (lambda at: write_npz(at, train_y=np.arange(23)), "24 images, train_y has 23 labels"),
        (lambda at: write_npz(at, train_y=np.zeros(24)), "train_y is float64 (24,); integers"),
        (lambda at: write_npz(at, train_y=np.array([None] * 24)), "Object arrays cannot be loaded"),
        (lambda at: write_npz(at, train_x=np.array([None] * 24)), "train_x is object"),
        (lambda at: write_npz(at, names=np.array(["a", "b"])), "label is 3; 2 classes allow 0 to 1"),
    ],
)
def test_npz_that_cannot_be_read_is_refused_in_one_line(
    make_file: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    make_file(tmp_path / "some.npz")
    stream = streams.get("npz")(file=str(tmp_path / "some.npz"), tasks="2")
    with pytest.raises(UserError) as refusal:
        stream.build("npz", in_places(tmp_path), Seeds(0))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def with_empty_class(root: Path) -> None:
    write_images(root / "ant", 2)
    (root / "bee").mkdir()


def with_damaged_image(root: Path) -> None:
    write_images(root / "ant", 4)
    whole = (root / "ant" / "2.png").read_bytes()
    (root / "ant" / "2.png").write_bytes(whole[: len(whole) // 2])


def with_false_image(root: Path) -> None:
    write_images(root / "ant", 4)
    (root / "ant" / "2.png").write_text("text")


def with_foreign_class(root: Path) -> None:
    write_images(root / "train" / "ant", 2)
    write_images(root / "test" / "bee", 2)


@pytest.mark.parametrize(
    ("make_tree", "said"),
    [
        (lambda root: None, "no folder"),
        (lambda root: root.mkdir(), "holds no class folders (expected:"),
        (with_empty_class, "bee is empty: it holds no image"),
        (lambda root: write_images(root / "ant", 1), "class 'ant' has one image"),
        (lambda root: write_images(root / "test" / "ant", 1), "has test/ but no train/ beside it"),
        (with_foreign_class, "class 'bee' is in"),
        (with_damaged_image, "2.png: "),
        (with_false_image, "2.png: not an image, or damaged"),
    ],
)
def test_folder_that_cannot_be_read_is_refused_in_one_line(
    make_tree: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    make_tree(tmp_path / "tree")
    with pytest.raises(UserError) as refusal:
        load(streams.get("folder"), tmp_path, path=str(tmp_path / "tree"), stored_size=8)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["folder", "npz", "avalanche"])
def test_a_missing_argument_says_how_to_give_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--stream {name}:"):
        load(streams.get(name), tmp_path)


def test_the_argument_after_the_colon_sets_the_option() -> None:
    assert streams.split("npz:/some/file.npz") == ("npz", {"file": "/some/file.npz"})
    assert streams.split("folder:C:/pictures") == ("folder", {"path": "C:/pictures"})
    assert streams.split("avalanche:SplitMNIST") == ("avalanche", {"benchmark": "SplitMNIST"})


def test_data_not_found_says_what_was_looked_for_and_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    from torchvision.datasets import CIFAR10

    waits: list[float | None] = []

    def refuse(self: CIFAR10) -> None:
        waits.append(socket.getdefaulttimeout())
        raise URLError("no network")

    monkeypatch.setattr(CIFAR10, "download", refuse)
    before = socket.getdefaulttimeout()
    with pytest.raises(DataNotFoundError) as refusal:
        load(streams.get("split-cifar10"), tmp_path)
    for part in ("cifar10.npz, cifar10/train/<class>/, cifar-10-batches-py/", str(tmp_path), "no network"):
        assert part in str(refusal.value)
    assert str(refusal.value).endswith("--data-dir, or try --stream split-digits")
    assert waits == [5]  # seconds: a machine without network is not to hang
    assert socket.getdefaulttimeout() == before
    with pytest.raises(
        DataNotFoundError, match=r"imagenet-r.npz, imagenet-r/train/<class>/ \(no --data-dir given\)"
    ):
        streams.get("split-imagenet-r")().load(Places(None, tmp_path))
    with pytest.raises(DataNotFoundError, match="no such folder"):
        streams.get("split-imagenet-r")().load(Places(tmp_path / "missing", tmp_path))


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [
        ("SplitMNST", "did you mean 'SplitMNIST'"),
        ("PermutedMNIST", "is not class-incremental"),
    ],
)
def test_avalanche_benchmarks_that_do_not_fit_are_refused(
    benchmark: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = in_places(tmp_path).data_dir
    assert data is not None
    avalanche(data, monkeypatch)
    with pytest.raises(UserError, match=said):
        load(streams.get("avalanche"), tmp_path, benchmark=benchmark)


@pytest.mark.data
def test_the_real_cifar100_subset_is_cut_by_pycils_order(data_folder: Path, tmp_path: Path) -> None:
    stream = streams.get("split-cifar100")(order="1993").build(
        "split-cifar100", Places(data_folder, tmp_path), Seeds(0)
    )
    first = stream.tasks[0]
    assert [len(first.train), len(first.validation), len(first.test)] == [1800, 200, 500]
    assert stream.class_names[:5] == ["road", "palm_tree", "snake", "bicycle", "cloud"]


@dataclass
class Broken(Stream):
    """A stream whose source is spoilt by ``spoil``."""

    spoil: ClassVar[Callable[[Source], Source]]

    def load(self, places: Places) -> Source:
        """Return the digits, spoilt."""
        return self.spoil(streams.get("split-digits")().load(places))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda source: replace(source, test=source.train), "an image is in two parts"),
        (
            lambda source: replace(source, test=replace(source.test, images=source.test.images.copy())),
            "two image arrays",
        ),
        (
            lambda source: replace(
                source, train=replace(source.train, labels=source.train.labels.astype(np.int32))
            ),
            "are int32, not int64",
        ),
        (
            lambda source: replace(source, train=source.train.select(RANDOM.permutation(len(source.train)))),
            "a second load gives other labels",
        ),
    ],
)
def test_the_contract_check_finds_a_broken_stream(
    spoil: Callable[[Source], Source], said: str, tmp_path: Path
) -> None:
    def make(**options: str) -> Stream:
        stream = Broken(**{"tasks": "5", **options})
        stream.spoil = spoil
        return stream

    with pytest.raises((AssertionError, PluginError), match=said):
        check_stream(make, in_places(tmp_path))
