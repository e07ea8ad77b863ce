"""Arrays in ``.npz`` files: the rules of pixels, and headers that claim what cannot be."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy
from numpy.typing import NDArray

from clbench import streams
from clbench.data.npz import NpzError, read_npz
from clbench.seeds import Seeds
from clbench.streams import Places, Source

LABELS = np.array([0, 1])


def write(file: Path, train: object, test: object = None, **others: object) -> Path:
    """Write two training and two test images."""
    arrays = {
        "train_x": train,
        "train_y": LABELS,
        "test_x": train if test is None else test,
        "test_y": LABELS,
    }
    np.savez_compressed(file, **{**arrays, **others})  # type: ignore[arg-type]  # what a user may have given
    return file


def read(file: Path) -> Source:
    return read_npz(file, cache_dir=file.parent / "cache")


@pytest.mark.parametrize(
    ("train", "test", "seen"),
    [
        (np.uint16([[[0, 256]], [[65535, 0]]]), None, [[0, 1], [255, 0]]),
        (np.float32([[[0, 0.5]], [[0.2, 0]]]), np.float32([[[0, 1]], [[0, 0]]]), [[0, 128], [51, 0]]),
        (np.float64([[[0, 0.5]], [[0.2, 0]]]), np.float64([[[0, 255]], [[0, 0]]]), [[0, 0], [0, 0]]),
        (np.array([[[True, False]], [[False, True]]]), None, [[255, 0], [0, 255]]),
        (np.uint8([[[[7], [8]]], [[[9], [10]]]]), None, [[7, 8], [9, 10]]),
        (np.uint8([[[[7, 255], [8, 0]]], [[[9, 255], [0, 51]]]]), None, [[7, 255], [9, 204]]),
        (
            np.uint8([[[[7, 7, 7, 255], [8, 8, 8, 0]]], [[[9, 9, 9, 255], [0, 0, 0, 51]]]]),
            None,
            [[7, 255], [9, 204]],
        ),
    ],
    ids=["uint16", "floats to 1", "floats to 255", "bool", "one channel", "grey and alpha", "RGBA"],
)
def test_arrays_of_every_kind_are_read_by_the_rules(
    train: NDArray[np.generic], test: NDArray[np.generic] | None, seen: list[list[int]], tmp_path: Path
) -> None:
    """What floats mean is decided by all images together: a dark image is not brightened by itself."""
    images = read(write(tmp_path / "some.npz", train, test)).train.images[:2]
    assert images.shape == (2, 1, 2, 3)
    assert np.array_equal(images, np.repeat(np.array(seen)[:, None, :, None], 3, axis=-1))


def test_the_brightest_value_of_16_bits_is_said(tmp_path: Path) -> None:
    file = write(tmp_path / "some.npz", np.uint16([[[0, 4095]], [[1, 2]]]))
    assert read(file).notes == (
        "images of 16 bits (the upper 8 are read): the brightest value is 4095 of 65535",
    )


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"train": np.zeros((2, 3, 8, 9), np.uint8)},
            "channels come last, as in np.moveaxis(train_x, 1, -1)",
        ),
        ({"train": np.asfortranarray(np.zeros((2, 3, 4), np.uint8))}, "in C order, as np.ascontiguousarray"),
        ({"train": np.zeros((2, 3, 4, 5), np.uint8)}, "train_x is uint8 (2, 3, 4, 5); uint8, uint16"),
        ({"train": np.zeros((2, 3), np.uint8)}, "train_x is uint8 (2, 3)"),
        ({"train": np.zeros((2, 0, 3), np.uint8)}, "train_x is uint8 (2, 0, 3)"),
        ({"train": np.zeros((2, 3, 3), np.int32)}, "train_x is int32"),
        (
            {"train": np.full((2, 3, 3), 200, np.uint16)},
            "reach 200 of 65535, which is black; give such values",
        ),
        (
            {"train": np.full((2, 3, 3), 1.04)},
            "go from 1.04 to 1.04; floats are read in [0, 1] and in [0, 255]",
        ),
        ({"train": np.array([[[0, np.nan]], [[1, 1]]])}, "nan"),
        ({"train": np.zeros((2, 3, 3), np.uint8), "test": np.zeros((2, 3, 3))}, "test_x is float64"),
        ({"train": np.zeros((2, 3, 3), np.uint8), "test": np.zeros((2, 3, 3, 4), np.uint8)}, "(2, 3, 3, 4)"),
        (
            {"train": np.zeros((2, 3, 3), np.uint8), "train_y": np.array([0, 1 << 62])},
            f"is {1 << 62}; 2 training",
        ),
        (
            {"train": np.zeros((2, 3, 3), np.uint8), "test_y": np.uint64([0, 1 << 63])},
            f"is {1 << 63}; 2 training",
        ),
        ({"train": np.zeros((2, 3, 3), np.uint8), "train_y": np.array([0, -1])}, "train_y is -1"),
        ({"train": np.zeros((2, 3, 3), np.uint8), "names": np.array(["a"] * 99)}, "2 training images allow"),
        (
            {"train": np.zeros((2, 3, 3), np.uint8), "names": np.array(["a" * 5_000_000])},
            "names is <U5000000",
        ),
    ],
)
def test_arrays_that_cannot_be_read_faithfully_are_refused_by_name(
    arrays: dict[str, NDArray[np.generic]], said: str, tmp_path: Path
) -> None:
    with pytest.raises(NpzError) as refusal:
        read(write(tmp_path / "some.npz", **arrays))
    assert said in str(refusal.value)
    assert "some.npz" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def claimed(shape: tuple[int, ...], dtype: str = "|u1", content: bytes = b"") -> bytes:
    """Return an npy file whose header claims a shape."""
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


def long_header(length: int) -> bytes:
    return b"\x93NUMPY\x02\x00" + length.to_bytes(4, "little") + b"("


HUGE = 1 << 40
CLAIMS: dict[str, tuple[dict[str, bytes], str]] = {
    "images": ({"train_x": claimed((2, HUGE, HUGE, 3))}, "as .npz: train_x claims"),
    "product past 64 bits": ({"train_x": claimed((2, 1 << 40, 1 << 40, 1 << 40))}, "train_x claims"),
    "labels": ({"train_y": claimed((HUGE,), "<i8")}, "train_y claims"),
    "names": ({"names": claimed((2,), f"<U{1 << 28}")}, "names claims"),
    "negative": ({"train_x": claimed((2, -3, -3), content=bytes(18))}, "an array of shape (2, -3, -3)"),
    "header of 4 GiB": ({"train_x": long_header(0xFFFFFFF0)}, "as .npz:"),
    "nested header": (
        {"train_x": b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000},
        "as .npz:",
    ),
    "other version": ({"train_x": b"\x93NUMPY\x09\x00\x00\x00"}, "npy version (9, 0)"),
    "no header": ({"train_x": b"text"}, "as .npz:"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_header_that_claims_more_than_is_there_is_refused_before_memory_is_asked_for(
    claim: str, tmp_path: Path
) -> None:
    changes, said = CLAIMS[claim]
    file = write(tmp_path / "sound.npz", np.zeros((2, 3, 3), np.uint8))
    with zipfile.ZipFile(file) as sound, zipfile.ZipFile(tmp_path / "some.npz", "w") as archive:
        content = {name.removesuffix(".npy"): sound.read(name) for name in sound.namelist()}
        for name, data in {**content, **changes}.items():
            archive.writestr(f"{name}.npy", data)
    with pytest.raises(NpzError, match=r"some\.npz") as refusal:
        read(tmp_path / "some.npz")
    assert said in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.slow  # writes 720 MB of zeros, packed
def test_images_larger_than_any_photograph_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "some.npz", np.broadcast_to(np.uint8(0), (2, 30_000, 6_000)))
    with pytest.raises(NpzError, match=r"some\.npz: .*6000 x 30000 pixels; at most 178,956,970 are read"):
        read(file)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-30], lambda data: data[: len(data) // 2], lambda _: b""]
)
def test_a_file_cut_short_is_one_line(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = write(tmp_path / "some.npz", np.zeros((2, 3, 3), np.uint8))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(NpzError, match=r"cannot read .*some\.npz as \.npz") as refusal:
        read(file)
    assert "\n" not in str(refusal.value)


def test_a_stream_of_16_bits_is_cut_as_one_of_8(tmp_path: Path) -> None:
    grey = np.arange(8, dtype=np.uint8).reshape(2, 2, 2) + 1
    narrow, wide = (
        write(tmp_path / "narrow.npz", grey),
        write(tmp_path / "wide.npz", grey.astype(np.uint16) * 257),
    )
    digests = [
        streams.get("npz")(file=str(file), tasks="2").build("npz", Places(None, tmp_path), Seeds(0)).digest
        for file in (narrow, wide)
    ]
    assert digests[0] == digests[1]
