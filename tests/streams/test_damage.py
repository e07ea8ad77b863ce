"""Damaged data of each torchvision set, and of each kind of file, are one line that says so."""

from __future__ import annotations

import hashlib
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from clbench import streams
from clbench.data.decode import FORMATS, ImageError, decode_file
from clbench.data.listings import FolderError, numbered_names, read_matlab
from clbench.errors import UserError
from clbench.outside import foreign
from clbench.streams import Places

RANDOM = np.random.default_rng(0)


def pixels(*shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, size=shape, dtype=np.uint8)


def idx(kind: int, *shape: int, content: bytes) -> bytes:
    return struct.pack(f">{len(shape) + 1}i", kind, *shape) + content


LABELS = bytes(number % 10 for number in range(20))
SOUND = {
    "images": idx(2051, 20, 28, 28, content=bytes(20 * 784)),
    "labels": idx(2049, 20, content=LABELS),
}
BROKEN_IDX: dict[str, dict[str, bytes | None]] = {
    "images cut short": {"images": SOUND["images"][:-100]},
    "images too long": {"images": SOUND["images"] + bytes(3)},
    "labels cut short": {"labels": SOUND["labels"][:-5]},
    "fewer images than labels": {"images": idx(2051, 19, 28, 28, content=bytes(19 * 784))},
    "fewer labels than images": {"labels": idx(2049, 19, content=LABELS[:-1])},
    "a label of no class": {"labels": idx(2049, 20, content=LABELS[:-1] + b"\xc8")},
    "a header that claims terabytes": {"images": idx(2051, 1 << 30, 1 << 30, 28, content=bytes(784))},
    "a negative header": {"images": idx(2051, -20, 28, -28, content=bytes(20 * 784))},
    "another kind": {"images": idx(0x0FFF, 20, 28, 28, content=bytes(20 * 784))},
    "garbage": {"images": b"garbage" * 9, "labels": b"\xff" * 40},
    "nothing": {"images": b""},
    "a file missing": {"labels": None},
}


@pytest.mark.parametrize("broken", BROKEN_IDX)
@pytest.mark.parametrize("name", ["split-mnist", "split-fashion-mnist", "avalanche"])
def test_damaged_idx_files_are_one_line(
    name: str, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "download", lambda _: None)  # as without a network
    raw = tmp_path / ("FashionMNIST" if name == "split-fashion-mnist" else "MNIST") / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind, file in (("images", "images-idx3-ubyte"), ("labels", "labels-idx1-ubyte")):
            content = BROKEN_IDX[broken].get(kind, SOUND[kind]) if part == "t10k" else SOUND[kind]
            if content is not None:
                (raw / f"{part}-{file}").write_bytes(content)
    options = {"benchmark": "SplitMNIST"} if name == "avalanche" else {}
    with pytest.raises(UserError) as refusal:
        streams.get(name)(**options).load(Places(tmp_path, tmp_path / "cache"))
    said = str(refusal.value)
    assert "\n" not in said
    if name != "avalanche":
        assert f"{raw} is incomplete or damaged; remove it to have it downloaded again, or replace it" in said


def cifar(size: int, labels: list[int], key: str) -> bytes:
    return pickle.dumps({"data": pixels(len(labels), size), key: labels})


BROKEN_CIFAR: dict[str, Callable[[str], bytes]] = {
    "a pickle cut short": lambda key: cifar(3072, [0, 1], key)[:-50],
    "no pickle": lambda key: b"garbage",
    "nothing": lambda key: b"",
    "a pickle of something else": lambda key: pickle.dumps({"other": 1}),
    "images of another size": lambda key: cifar(3000, [0, 1], key),
    "fewer labels than images": lambda key: pickle.dumps({"data": pixels(3, 3072), key: [0, 1]}),
    "a label of no class": lambda key: cifar(3072, [0, 77], key),
}


@pytest.mark.parametrize("broken", [*BROKEN_CIFAR, "other checksums"])
@pytest.mark.parametrize("name", ["split-cifar10", "split-cifar100"])
def test_damaged_cifar_is_one_line(
    name: str, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With checksums that are right, as if the originals were so, and with those of other files."""
    from torchvision.datasets import CIFAR10, CIFAR100

    kind, key = (CIFAR10, "labels") if name == "split-cifar10" else (CIFAR100, "fine_labels")
    names = "label_names" if kind is CIFAR10 else "fine_label_names"
    monkeypatch.setattr(kind, "download", lambda _: None)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    content = {
        "train": cifar(3072, [0, 1], key),
        "test": BROKEN_CIFAR.get(broken, BROKEN_CIFAR["no pickle"])(key),
        "meta": pickle.dumps({names: ["ant", "bee"]}),
    }
    sums = {}
    for part, data in content.items():
        (folder / part).write_bytes(data)
        sums[part] = "0" if broken == "other checksums" else hashlib.md5(data).hexdigest()
    monkeypatch.setattr(kind, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(kind, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(kind, "meta", {"filename": "meta", "key": names, "md5": sums["meta"]})
    with pytest.raises(UserError, match=r"is incomplete or damaged; remove it to have it") as refusal:
        streams.get(name)().load(Places(tmp_path, tmp_path / "cache"))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("broken", ["cut short", "garbage", "nothing", "other arrays", "a label of no class"])
def test_damaged_svhn_is_one_line(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import SVHN

    parts = {}
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        labels = np.full((2, 1), 77 if broken == "a label of no class" else 1, dtype=np.uint8)
        savemat(file, {"Z" if broken == "other arrays" else "X": pixels(32, 32, 3, 2), "y": labels})
        spoilt = {"cut short": file.read_bytes()[:-99], "garbage": b"garbage" * 99, "nothing": b""}
        file.write_bytes(spoilt.get(broken, file.read_bytes()))
        parts[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", parts)
    with pytest.raises(UserError, match=r"train_32x32.mat is incomplete or damaged") as refusal:
        streams.get("split-svhn")().load(Places(tmp_path, tmp_path / "cache"))
    assert "\n" not in str(refusal.value)


def spoil_image(root: Path) -> None:
    next(root.rglob("*.jpg")).write_bytes(b"garbage")


def spoil_matlab(root: Path) -> None:
    (root / "setid.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\xff" * 300)


def spoil_labels(root: Path) -> None:
    savemat(root / "imagelabels.mat", {"labels": np.full((1, 306), 1 << 40)})


@pytest.mark.parametrize("spoil", [spoil_image, spoil_matlab, spoil_labels, lambda root: None])
def test_damaged_flowers_are_one_line(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    root = tmp_path / "flowers-102"
    (root / "jpg").mkdir(parents=True)
    for number in range(1, 13):
        Image.fromarray(pixels(4, 4, 3)).save(root / "jpg" / f"image_{number:05d}.jpg")
    savemat(root / "imagelabels.mat", {"labels": np.arange(12)[None] % 4 + 1})
    parts = np.split(np.arange(1, 13), 3)
    savemat(root / "setid.mat", {"trnid": parts[1][None], "valid": parts[0][None], "tstid": parts[2][None]})
    spoil(root)
    make = streams.get("split-flowers102")
    if spoil.__name__ == "<lambda>":
        assert len(make().load(Places(tmp_path, tmp_path / "cache")).train) == 8
        return
    with pytest.raises(
        UserError, match=r"flowers-102 is incomplete or damaged; remove it to have"
    ) as refusal:
        make().load(Places(tmp_path, tmp_path / "cache"))
    assert "\n" not in str(refusal.value)


def test_a_matlab_file_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "MOST_MATLAB", 1 << 22)
    packed = zlib.compress(bytes(1 << 23))  # 8 KB: 8 MiB
    file = tmp_path / "bomb.mat"
    file.write_bytes(b"MATLAB".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(
        FolderError, match=r"bomb.mat as a file of MATLAB's: it unpacks into more than 4,194,304"
    ):
        read_matlab(file)


def test_a_label_that_no_collection_has_is_refused_before_names_are_made() -> None:
    with pytest.raises(FolderError, match="a label is 4611686018427387904; 2 images allow at most 2 classes"):
        numbered_names([0, 1 << 62])


def test_dimensions_are_looked_at_before_an_image_is_read(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 1_000_000, 1_000_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    (tmp_path / "bomb.pgm").write_bytes(b"P5 1000000 1000000 255\n")
    for name in ("bomb.png", "bomb.pgm"):
        with pytest.raises(ImageError, match=rf"cannot read the image .*{name}: ") as refusal:
            decode_file(tmp_path / name, (8, 8))
        assert "\n" not in str(refusal.value)


def test_a_file_that_pillow_would_hand_to_another_program_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "some.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(ImageError, match="not an image, or damaged"):
        decode_file(tmp_path / "some.png", (8, 8))


WRITTEN = {
    "BMP": {},
    "GIF": {},
    "JPEG": {},
    "PNG": {},
    "PPM": {},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {},
}


@pytest.mark.slow  # 1,400 files are written and read
@pytest.mark.parametrize("kind", WRITTEN)
def test_whatever_is_done_to_an_image_it_is_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    assert kind in FORMATS
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = tmp_path / "whole"
    Image.fromarray(pixels(9, 7, 3)).save(whole, format=kind, exif=exif, **WRITTEN[kind])
    content, random = whole.read_bytes(), np.random.default_rng(1)
    for _ in range(200):
        spoilt = bytearray(content)
        for place in random.integers(0, len(content), size=random.integers(1, 6)):
            spoilt[place] = random.integers(0, 256)
        (tmp_path / "spoilt.png").write_bytes(spoilt[: random.integers(1, len(spoilt) + 1)])
        assert "\n" not in outcome(tmp_path / "spoilt.png")


def outcome(file: Path) -> str:
    """Return what is said of an image that is refused; anything but a picture or a refusal is an error."""
    try:
        return str(decode_file(file, (4, 4)).shape)
    except ImageError as error:
        return str(error)
