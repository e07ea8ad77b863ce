"""The streams of the literature, on small copies of their real layouts: parts, classes, domains, tasks."""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from clbench import streams
from clbench.errors import UserError
from clbench.seeds import Seeds
from clbench.streams import DataNotFoundError, Places, Source, Stream
from clbench.testing import check_stream

Make = Callable[..., Stream]
RANDOM = np.random.default_rng(0)


def pixels(*shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, size=shape, dtype=np.uint8)


def write_image(file: Path, height: int = 8, width: int = 8) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(height, width, 3)).save(file)


def write_classes(folder: Path, names: str, count: int = 5) -> None:
    for name in names.split():
        for number in range(count):
            write_image(folder / name / f"{number}.png")


def write_lines(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def write_idx(raw: Path) -> None:
    """Write MNIST's four files: 30 + 20 images."""
    raw.mkdir(parents=True)
    for part, count in (("train", 30), ("t10k", 20)):
        images = struct.pack(">iiii", 2051, count, 28, 28) + pixels(count, 28, 28).tobytes()
        labels = struct.pack(">ii", 2049, count) + bytes(number % 10 for number in range(count))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)


def mnist(data: Path, patch: pytest.MonkeyPatch) -> Make:
    write_idx(data / "MNIST" / "raw")
    return streams.get("split-mnist")


def fashion_mnist(data: Path, patch: pytest.MonkeyPatch) -> Make:
    write_idx(data / "FashionMNIST" / "raw")
    return streams.get("split-fashion-mnist")


def svhn(data: Path, patch: pytest.MonkeyPatch) -> Make:
    """Write two files of MATLAB's, where the digit 0 has the label 10.

    torchvision reads only files with the real checksums: here they are those of the stand-ins.
    """
    from torchvision.datasets import SVHN

    parts = {}
    for part, count in (("train", 30), ("test", 20)):
        file = data / f"{part}_32x32.mat"
        labels = np.array([number % 10 or 10 for number in range(count)], dtype=np.uint8)
        savemat(file, {"X": pixels(32, 32, 3, count), "y": labels[:, None]})
        parts[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    patch.setattr(SVHN, "split_list", parts)
    return streams.get("split-svhn")


def notmnist(data: Path, patch: pytest.MonkeyPatch) -> Make:
    write_classes(data / "notMNIST" / "Train", "A B C D E F G H I J", count=3)
    write_classes(data / "notMNIST" / "Test", "A B C D E F G H I J", count=2)
    (data / "notMNIST" / "Train" / "A" / "damaged.png").write_bytes(b"")
    return streams.get("split-notmnist")


def five_datasets(data: Path, patch: pytest.MonkeyPatch) -> Make:
    write_classes(data / "cifar10" / "train", "cat dog")
    write_classes(data / "cifar10" / "test", "cat dog", count=2)
    for write in (mnist, fashion_mnist, svhn, notmnist):
        write(data, patch)
    return streams.get("5-datasets")


def eurosat(data: Path, patch: pytest.MonkeyPatch) -> Make:
    write_classes(data / "eurosat" / "2750", "AnnualCrop Forest Highway Pasture River")
    return streams.get("split-eurosat")


def flowers(data: Path, patch: pytest.MonkeyPatch) -> Make:
    """Write two images of each class to train on, one to test on, numbered from 1 as the real ones."""
    root = data / "flowers-102"
    count = 306
    for number in range(1, count + 1):
        write_image(root / "jpg" / f"image_{number:05d}.jpg", 4, 4)
    savemat(root / "imagelabels.mat", {"labels": np.arange(count)[None] % 102 + 1})
    parts = np.split(np.arange(1, count + 1), 3)
    savemat(root / "setid.mat", {"trnid": parts[1][None], "valid": parts[0][None], "tstid": parts[2][None]})
    return streams.get("split-flowers102")


def cars(data: Path, patch: pytest.MonkeyPatch) -> Make:
    """Write the two tables of annotations, as structured arrays, with classes numbered from 1."""
    root = data / "stanford_cars"
    fields = [("bbox_x1", np.uint8), ("class", np.uint8), ("fname", object)]
    for part, table, count in (
        ("cars_train", root / "devkit" / "cars_train_annos.mat", 9),
        ("cars_test", root / "cars_test_annos_withlabels.mat", 6),
    ):
        rows = [(0, number % 3 + 1, f"{number:05d}.jpg") for number in range(count)]
        table.parent.mkdir(parents=True, exist_ok=True)
        savemat(table, {"annotations": np.array(rows, dtype=fields)[None]})
        for *_, file in rows:
            write_image(root / part / file)
    names = np.array(["AM General Hummer", "Acura RL", "Acura TL"], dtype=object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names[None]})
    return partial(streams.get("split-cars"), tasks="3")


def aircraft(data: Path, patch: pytest.MonkeyPatch) -> Make:
    root = data / "fgvc-aircraft-2013b" / "data"
    names = ["707-320", "Boeing 717", "F/A-18"]
    write_lines(root / "variants.txt", *names)
    for part, count, first in (("trainval", 9, 1000), ("test", 6, 2000)):
        images = [f"{first + number:07d}" for number in range(count)]
        for image in images:
            write_image(root / "images" / f"{image}.jpg")
        lines = [f"{image} {names[number % 3]}" for number, image in enumerate(images)]
        write_lines(root / f"images_variant_{part}.txt", *lines)
    return partial(streams.get("split-aircraft"), tasks="3")


def cub200(data: Path, patch: pytest.MonkeyPatch) -> Make:
    root = data / "CUB_200_2011"
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    files = [f"{names[number % 2]}/{number}.jpg" for number in range(12)]
    for file in files:
        write_image(root / "images" / file)
    write_lines(root / "classes.txt", *(f"{number + 1} {name}" for number, name in enumerate(names)))
    for list_name, value in (
        ("images", lambda number: files[number]),
        ("image_class_labels", lambda number: number % 2 + 1),
        ("train_test_split", lambda number: int(number < 8)),
    ):
        write_lines(root / f"{list_name}.txt", *(f"{number + 1} {value(number)}" for number in range(12)))
    return partial(streams.get("split-cub200"), tasks="2")


def imagenet_a(data: Path, patch: pytest.MonkeyPatch) -> Make:
    write_classes(data / "imagenet-a", "n01 n02 n03 n04 n05 n06 n07 n08 n09 n10")
    return streams.get("split-imagenet-a")


DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")


def domainnet(data: Path, patch: pytest.MonkeyPatch) -> Make:
    """Write three classes; a domain has two training images of each and one test image."""
    root = data / "domainnet"
    for domain in DOMAINS:
        lists: dict[str, list[str]] = {"train": [], "test": []}
        for label, name in enumerate(("airplane", "ambulance", "angel")):
            for number in range(3):
                file = f"{domain}/{name}/{domain}_{label:03d}_{number:06d}.jpg"
                write_image(root / file, 8, 8 + number)
                lists["test" if number == 2 else "train"].append(f"{file} {label}")
        for part, lines in lists.items():
            write_lines(root / f"{domain}_{part}.txt", *lines)
    return partial(streams.get("domainnet"), stored_size=8)


def core50(data: Path, patch: pytest.MonkeyPatch) -> Make:
    for session in range(1, 12):
        for number in range(1, 51):
            for frame in range(3 if session in (3, 7, 10) else 2):
                folder = data / "core50_128x128" / f"s{session}" / f"o{number}"
                write_image(folder / f"C_{session:02d}_{number:02d}_{frame:03d}.png", 2, 2)
    return streams.get("core50")


def vtab_1k(data: Path, patch: pytest.MonkeyPatch) -> Make:
    """Write two classes a data set; sun397 has a third in its test list only."""
    for dataset in str(vars(streams.get("vtab-1k")())["datasets"]).split(","):
        root = data / "vtab-1k" / dataset
        counts = {"train800": 4, "val200": 2, "test": 6}
        lists = {
            part: [f"images/{part}/{number}.jpg {number % 2}" for number in range(count)]
            for part, count in counts.items()
        }
        lists["test"] += ["images/test/0.jpg 7"] if dataset == "sun397" else []
        lists["train800"] += ["images/train800/0.jpg 0"] if dataset == "dtd" else []
        for part, lines in lists.items():
            write_lines(root / f"{part}.txt", *lines)
            for line in lines:
                write_image(root / line.split()[0])
    return partial(streams.get("vtab-1k"), stored_size=8)


def domains(data: Path, patch: pytest.MonkeyPatch) -> Make:
    write_classes(data / "tree" / "day", "ant bee")
    write_classes(data / "tree" / "night" / "train", "bee cow")
    write_classes(data / "tree" / "night" / "test", "bee cow", count=2)
    return partial(streams.get("domains"), path=str(data / "tree"))


STAND_INS: dict[str, Callable[[Path, pytest.MonkeyPatch], Make]] = {
    "5-datasets": five_datasets,
    "core50": core50,
    "domainnet": domainnet,
    "domains": domains,
    "split-aircraft": aircraft,
    "split-cars": cars,
    "split-cub200": cub200,
    "split-eurosat": eurosat,
    "split-fashion-mnist": fashion_mnist,
    "split-flowers102": flowers,
    "split-imagenet-a": imagenet_a,
    "split-mnist": mnist,
    "split-notmnist": notmnist,
    "split-svhn": svhn,
    "vtab-1k": vtab_1k,
}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "data").mkdir()
    return Places(tmp_path / "data", tmp_path / "cache")


def make(name: str, places: Places, patch: pytest.MonkeyPatch) -> Make:
    assert places.data_dir is not None
    if name not in STAND_INS and not streams.registry.card(name).preset:
        return streams.get(name)  # it brings its own images
    assert name in STAND_INS, f"{name} looks for data: write small ones in its layout, in STAND_INS"
    return STAND_INS[name](places.data_dir, patch)


ELSEWHERE = {
    *("avalanche", "folder", "npz", "split-cifar10", "split-cifar100", "split-digits"),
    *("split-imagenet-r", "split-tiny-imagenet"),
}  # in test_layouts.py


@pytest.mark.parametrize("name", sorted({*streams.names()} - ELSEWHERE))
def test_every_stream_keeps_the_contract(name: str, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    check_stream(make(name, places, monkeypatch), places)


def images_of(source: Source) -> list[list[int]]:
    return [np.bincount(part.labels).tolist() for part in (source.train, source.test)]


def test_mnist_is_read_as_rgb_at_its_own_size(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make("split-mnist", places, monkeypatch)().load(places)
    assert source.train.images.shape == (50, 28, 28, 3)
    raw = (places.data_dir or Path()) / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    grey = np.frombuffer(raw.read_bytes()[16:], np.uint8).reshape(20, 28, 28)
    for channel in range(3):
        assert np.array_equal(source.test.images[source.test.rows][..., channel], grey)
    assert source.class_names[3] == "3 - three"


def test_svhn_turns_its_label_10_into_the_digit_0(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make("split-svhn", places, monkeypatch)().load(places)
    assert source.train.labels.tolist() == [number % 10 for number in range(30)]
    assert source.class_names == list("0123456789")


def test_a_damaged_svhn_is_refused_in_one_line(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = make("split-svhn", places, monkeypatch)()
    with open((places.data_dir or Path()) / "test_32x32.mat", "ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"train_32x32.mat is incomplete or damaged.*corrupted") as refusal:
        stream.load(places)
    assert "\n" not in str(refusal.value)


def test_notmnist_passes_over_what_is_no_image(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make("split-notmnist", places, monkeypatch)().load(places)
    assert images_of(source) == [[3] * 10, [2] * 10]
    assert source.notes == (f"not read in {(places.data_dir or Path()) / 'notMNIST'}: 1 empty file(s)",)


def test_five_datasets_are_tasks_in_the_order_asked_for(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make("5-datasets", places, monkeypatch)(datasets="svhn, cifar10").build("five", places, Seeds(0))
    assert [len(task.classes) for task in stream.tasks] == [10, 2]
    assert stream.class_names[9:] == ["svhn: 9", "cifar10: cat", "cifar10: dog"]
    assert stream.tasks[0].test.images.shape[1:] == (32, 32, 3)
    svhn_alone = streams.get("split-svhn")().load(places).test
    test = stream.tasks[0].test
    assert np.array_equal(test.images[test.rows], svhn_alone.images[svhn_alone.rows])


def test_flowers_train_on_the_training_and_the_validation_part(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make("split-flowers102", places, monkeypatch)().load(places)
    assert images_of(source) == [[2] * 102, [1] * 102]
    assert source.class_names[100:] == ["101", "102"]
    file = (places.data_dir or Path()) / "flowers-102" / "jpg" / "image_00207.jpg"  # the third test image
    assert np.array_equal(source.test.images[source.test.rows[2]], np.asarray(Image.open(file)))
    assert source.test.labels[2] == 2


def test_cars_and_aircraft_keep_the_names_and_numbers_of_their_lists(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make("split-cars", places, monkeypatch)().load(places)
    assert images_of(source) == [[3, 3, 3], [2, 2, 2]]
    assert source.class_names == ["AM General Hummer", "Acura RL", "Acura TL"]
    assert source.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    source = make("split-aircraft", places, monkeypatch)().load(places)
    assert images_of(source) == [[3, 3, 3], [2, 2, 2]]
    assert source.class_names == ["707-320", "Boeing 717", "F/A-18"]


def test_cub200_takes_the_official_parts_and_drops_the_numbers_of_names(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make("split-cub200", places, monkeypatch)().load(places)
    assert images_of(source) == [[4, 4], [2, 2]]
    assert source.class_names == ["Black_footed_Albatross", "Laysan_Albatross"]


def domains_of(source: Source) -> list[list[int]]:
    assert source.domain is not None
    return [np.bincount(source.domain[part.rows]).tolist() for part in (source.train, source.test)]


def test_domainnet_has_six_domains_of_the_same_classes(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make("domainnet", places, monkeypatch)
    source = whole().load(places)
    assert tuple(source.domain_names) == DOMAINS
    assert domains_of(source) == [[6] * 6, [3] * 6]
    assert source.class_names == ["airplane", "ambulance", "angel"]
    stream = whole().build("domainnet", places, Seeds(0))
    assert [task.classes for task in stream.tasks] == [[0, 1, 2]] * 6
    stream = whole(scenario="class", tasks="3").build("domainnet", places, Seeds(0))
    assert [len(task.test) for task in stream.tasks] == [6, 6, 6]
    some = whole(domain_order="sketch,real").load(places)
    assert [*some.domain_names] == ["sketch", "real"]
    with pytest.raises(UserError, match=r"'skech' is unknown; did you mean 'sketch'\?"):
        whole(domain_order="skech").load(places)


def test_core50_trains_on_eight_sessions_and_deals_the_images_of_three_to_them(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make("core50", places, monkeypatch)
    source = whole().load(places)
    assert [*source.domain_names] == [f"session {number}" for number in (1, 2, 4, 5, 6, 8, 9, 11)]
    train, test = domains_of(source)
    assert train == [100] * 8  # 50 objects, 2 frames
    assert sum(test) == 450  # 3 sessions, 50 objects, 3 frames
    assert max(test) - min(test) <= 1
    assert source.class_names[5] == "mobile phone 1"
    new_classes = whole(scenario="class", tasks="B10-Inc5").build("core50", places, Seeds(0))
    assert [len(task.classes) for task in new_classes.tasks] == [10] + [5] * 8
    by_category = whole(level="category").load(places)
    assert images_of(by_category) == [[80] * 10, [45] * 10]
    assert by_category.class_names[9] == "remote control"


def test_vtab_1k_is_nineteen_tasks_of_disjoint_classes_seen_in_both_parts(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make("vtab-1k", places, monkeypatch)
    stream = whole(validation_rate=0).build("vtab-1k", places, Seeds(0))
    assert [task.classes for task in stream.tasks] == [[2 * index, 2 * index + 1] for index in range(19)]
    assert [len(task.train) for task in stream.tasks] == [6, 6, 7, *[6] * 16]
    assert [len(task.test) for task in stream.tasks] == [6] * 19  # less sun397's image of an unknown class
    assert stream.class_names[-1] == "smallnorb_ele: 1"
    few = whole(num_test=3, datasets="sun397,dtd").build("vtab-1k", places, Seeds(0))
    # sun397 lists the classes 0 1 0 1 0 1 7: places 0, 2, 4 give three of 0; the first of 1 is kept too
    assert [np.bincount(task.test.labels).tolist() for task in few.tasks] == [[3, 1], [0, 0, 3, 1]]
    assert few.class_names[0] == "sun397: 0"


def test_domains_of_a_tree_share_the_classes_of_one_name(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make("domains", places, monkeypatch)().load(places)
    assert source.class_names == ["ant", "bee", "cow"]
    assert [*source.domain_names] == ["day", "night"]
    assert images_of(source) == [[4, 9, 5], [1, 3, 2]]  # by day a fifth of each class is tested on
    assert domains_of(source) == [[8, 10], [2, 4]]


def without_list(data: Path) -> None:
    (data / "domainnet" / "real_test.txt").unlink()


def without_image(data: Path) -> None:
    next((data / "domainnet" / "real" / "angel").iterdir()).unlink()


def with_other_rows(data: Path) -> None:
    write_lines(data / "domainnet" / "real_train.txt", "real/angel/1.jpg")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_list, r"cannot read the list .*real_test.txt"),
        (without_image, "is listed but not there"),
        (with_other_rows, "the lists in .*domainnet are not as published: ValueError"),
    ],
)
def test_lists_that_miss_something_are_refused_in_one_line(
    spoil: Callable[[Path], None], said: str, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make("domainnet", places, monkeypatch)()
    spoil(places.data_dir or Path())
    with pytest.raises(UserError, match=said) as refusal:
        stream.load(places)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "name", [name for name in streams.names() if streams.registry.card(name).preset.get("data")]
)
def test_missing_data_are_one_line_that_says_what_to_do(
    name: str, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(DataNotFoundError) as refusal:
        streams.get(name)().load(places)
    said = str(refusal.value)
    assert "\n" not in said
    assert "--data-dir" in said
    preset = streams.registry.card(name).preset
    assert ("download failed" in said) == bool(preset.get("downloads"))
    assert str(preset["data"]).split()[0] in said
    left = [path.name for path in places.cache_dir.rglob("*") if path.is_file()]
    assert not left


def test_a_download_is_moved_in_when_it_is_whole(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import utils

    asked: list[str] = []

    def deliver(url: str, folder: str, *, md5: str, remove_finished: bool) -> None:
        asked.append(url)
        write_classes(Path(folder) / "imagenet-a", "n01 n02")
        if len(asked) == 1:
            raise OSError("the connection broke")

    monkeypatch.setattr(utils, "download_and_extract_archive", deliver)
    stream = streams.get("split-imagenet-a")(tasks="2")
    with pytest.raises(DataNotFoundError, match="the connection broke"):
        stream.load(places)
    assert images_of(stream.load(places)) == [[4, 4], [1, 1]]
    stream.load(places)
    assert len(asked) == 2
