"""What pixels mean: one rule for each mode and kind of file, and what is refused by name."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clbench.data.decode import ImageError, decode_file, decode_files
from clbench.data.pixels import PixelError, array_rule, over_white, to_rgb

RED, HALF_RED_ON_WHITE, WHITE = (255, 0, 0), (255, 127, 127), (255, 255, 255)
RAMP_16 = np.array([[0, 255, 256], [32767, 32768, 65535]], dtype=np.uint16)
RAMP_8 = [[0, 0, 1], [127, 128, 255]]  # the upper bytes


def rgb(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(to_rgb(image))


def read(file: Path, height: int, width: int) -> NDArray[np.uint8]:
    return decode_file(file, (height, width))


def grey(values: object) -> NDArray[np.uint8]:
    return np.repeat(np.array(values, dtype=np.uint8)[..., None], 3, axis=-1)


def one_pixel(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (2, 2), colour)  # type: ignore[arg-type]  # what a mode's colours are made of


def palette(mode: str) -> Image.Image:
    """Return pixels 0 and 1 of a palette of red and green."""
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    return image if mode == "P" else image.convert(mode)


MODES: dict[str, tuple[Callable[[], Image.Image], tuple[int, int, int]]] = {
    "1": (lambda: one_pixel("1", 1), WHITE),
    "L": (lambda: one_pixel("L", 7), (7, 7, 7)),
    "LA": (lambda: one_pixel("LA", (0, 0)), WHITE),
    "La": (lambda: one_pixel("LA", (100, 128)).convert("La"), (177, 177, 177)),
    "P": (lambda: palette("P").crop((0, 0, 1, 1)), RED),
    "PA": (lambda: palette("PA").crop((0, 0, 1, 1)), RED),
    "RGB": (lambda: one_pixel("RGB", RED), RED),
    "RGBA": (lambda: one_pixel("RGBA", (255, 0, 0, 128)), HALF_RED_ON_WHITE),
    "RGBa": (lambda: one_pixel("RGBA", (255, 0, 0, 128)).convert("RGBa"), HALF_RED_ON_WHITE),
    "RGBX": (lambda: one_pixel("RGBX", (255, 0, 0, 0)), RED),
    "CMYK": (lambda: one_pixel("CMYK", (0, 255, 255, 0)), RED),
    "YCbCr": (lambda: one_pixel("YCbCr", (200, 128, 128)), (200, 200, 200)),
    "LAB": (lambda: one_pixel("LAB", (0, 128, 128)), (0, 0, 0)),
    "HSV": (lambda: one_pixel("HSV", (0, 255, 255)), RED),
    "I;16": (lambda: one_pixel("I;16", 65535), WHITE),
    "I;16L": (lambda: one_pixel("I;16L", 0x7FFF), (127, 127, 127)),
    "I;16B": (lambda: one_pixel("I;16B", 0x80FF), (128, 128, 128)),
    "I;16N": (lambda: one_pixel("I;16N", 0x80FF), (128, 128, 128)),
    "F": (lambda: one_pixel("F", 0.5), (128, 128, 128)),
}
REFUSED = {"I": "mode I: whole numbers of 32 bits have no agreed white; save it with 8 or 16 bits"}


@pytest.mark.parametrize("mode", sorted({*Image.MODES, "La", "RGBa", "RGBX", "LAB", "I;16N"} - {*REFUSED}))
def test_every_mode_of_pillow_has_a_rule(mode: str) -> None:
    make, expected = MODES[mode]
    image = make()
    assert image.mode == mode
    one_off = 1 if mode == "LAB" else 0  # littlecms rounds as its version does
    assert np.abs(rgb(image)[0, 0].astype(int) - expected).max() <= one_off


@pytest.mark.parametrize("mode", REFUSED)
def test_a_mode_without_a_rule_is_refused_by_name(mode: str) -> None:
    with pytest.raises(PixelError) as refusal:
        to_rgb(one_pixel(mode, 0))
    assert str(refusal.value) == REFUSED[mode]


def test_what_is_opaque_keeps_its_colours_bit_for_bit() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    opaque = np.full((16, 16), 255, dtype=np.uint8)
    colours = np.stack([levels, levels.T, levels[::-1]], axis=-1)
    assert np.array_equal(rgb(Image.fromarray(colours)), colours)
    assert np.array_equal(rgb(Image.fromarray(np.dstack([colours, opaque]))), colours)
    assert np.array_equal(rgb(Image.fromarray(np.dstack([levels, opaque]))), grey(levels))


def test_a_hidden_colour_is_never_seen() -> None:
    hidden = np.random.default_rng(0).integers(0, 256, size=(4, 4, 4), dtype=np.uint8)
    hidden[..., 3] = 0
    assert (rgb(Image.fromarray(hidden)) == 255).all()
    assert over_white(np.array([0, 0, 0, 51], dtype=np.uint8)).tolist() == [204] * 3  # 255 - 51


def png(
    file: Path, depth: int, colour: int, row: bytes, *chunks: tuple[bytes, bytes], width: int = 2
) -> Path:
    """Write a PNG of one row, of any depth and kind, with chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    pieces = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in body
    ]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(pieces))
    return file


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "seen"),
    [
        (1, 0, b"\x40", b"\0\0", [WHITE, WHITE]),  # black is transparent
        (2, 0, b"\x60", b"\0\1", [WHITE, (170, 170, 170)]),  # of the grey levels 0 to 3, 1 is
        (4, 0, b"\x12", b"\0\2", [(17, 17, 17), WHITE]),
        (8, 0, b"\x09\x0a", b"\0\x09", [WHITE, (10, 10, 10)]),
        (16, 0, b"\x09\x01\x09\x02", b"\x09\x01", [WHITE, (9, 9, 9)]),
        (8, 2, b"\1\2\3\1\2\4", b"\0\1\0\2\0\3", [WHITE, (1, 2, 4)]),
        (16, 2, b"\1\0\2\0\3\0\1\xff\2\xff\3\xff", None, [(1, 2, 3), (1, 2, 3)]),
        (16, 4, b"\x80\0\xff\xff\0\0\0\0", None, [(128, 128, 128), WHITE]),
        (16, 6, b"\1\0\2\0\3\0\xff\xff" + b"\1\0\2\0\3\0\0\0", None, [(1, 2, 3), WHITE]),
    ],
)
def test_every_kind_of_png_is_read_by_its_depth_and_transparency(
    depth: int, colour: int, row: bytes, transparent: bytes | None, seen: list[object], tmp_path: Path
) -> None:
    chunks = [] if transparent is None else [(b"tRNS", transparent)]
    file = png(tmp_path / "some.png", depth, colour, row, *chunks)
    assert read(file, 1, 2)[0].tolist() == [list(each) for each in seen]  # type: ignore[call-overload]  # tuples


def test_a_palette_with_transparent_entries_is_seen_on_white(tmp_path: Path) -> None:
    colours = (b"PLTE", bytes([255, 0, 0, 0, 0, 255]))
    for alpha, seen in ((b"\0", [WHITE, (0, 0, 255)]), (b"\x80\0", [HALF_RED_ON_WHITE, WHITE])):
        file = png(tmp_path / "some.png", 8, 3, b"\0\1", colours, (b"tRNS", alpha))
        assert read(file, 1, 2)[0].tolist() == [list(each) for each in seen]
    gif = palette("P")
    gif.save(tmp_path / "some.gif", transparency=0)
    assert read(tmp_path / "some.gif", 1, 2)[0].tolist() == [list(WHITE), [0, 255, 0]]


def test_a_transparent_colour_of_16_bits_is_refused(tmp_path: Path) -> None:
    file = png(tmp_path / "some.png", 16, 2, bytes(12), (b"tRNS", bytes(6)))
    with pytest.raises(ImageError, match=r"some.png: mode RGB of 16 bits with a transparent colour"):
        read(file, 1, 2)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_grey_of_16_bits_is_scaled_not_clipped(ending: str, tmp_path: Path) -> None:
    image = Image.fromarray(RAMP_16)
    if ending == "pgm":
        header = b"P5 3 2 65535\n"
        (tmp_path / "some.pgm").write_bytes(header + RAMP_16.astype(">u2").tobytes())
    else:
        image.save(tmp_path / f"some.{ending}")
    assert np.array_equal(read(tmp_path / f"some.{ending}", 2, 3), grey(RAMP_8))


def test_a_pgm_says_what_white_is(tmp_path: Path) -> None:
    (tmp_path / "some.pgm").write_bytes(b"P5 2 1 1023\n" + struct.pack(">HH", 0, 1023))
    assert read(tmp_path / "some.pgm", 1, 2)[0].tolist() == [[0] * 3, [255] * 3]


def with_tag(file: Path, tag: int, value: int) -> Path:
    """Change the value of a tag of one short number in a TIFF of little-endian order."""
    content = file.read_bytes()
    place = content.index(struct.pack("<HHI", tag, 3, 1))
    file.write_bytes(content[: place + 8] + struct.pack("<H", value) + content[place + 10 :])
    return file


def test_tiffs_in_which_zero_is_white_are_turned_round(tmp_path: Path) -> None:
    for image, seen in (
        (Image.fromarray(RAMP_16), 255 - np.array(RAMP_8)),
        (Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)), [[255, 128, 0]]),
        (Image.fromarray(np.array([[0, 9, 255]], dtype=np.uint8)), [[255, 246, 0]]),
    ):
        image.save(tmp_path / "some.tif")
        file = with_tag(tmp_path / "some.tif", 262, 0)
        assert np.array_equal(read(file, image.height, 3), grey(seen))


def test_a_tiff_of_12_bits_has_4095_as_white(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((1, 4), dtype=np.uint16)).save(tmp_path / "some.tif")
    file = with_tag(tmp_path / "some.tif", 258, 12)
    content = file.read_bytes()
    with Image.open(file) as image:
        start = image.tag_v2[273][0]  # type: ignore[attr-defined]  # of a TIFF: where its pixels begin
    packed = bytes([0xFF, 0xF8, 0x00, 0x00, 0xF0, 0x00])  # 4095, 2048, 15, 0
    file.write_bytes(content[:start] + packed + content[start + 6 :])
    assert read(file, 1, 4)[0, :, 0].tolist() == [255, 128, 0, 0]
    with Image.open(file) as image:
        image.load()  # what is known of a file's layout only before
        assert rgb(image)[0, :, 0].tolist() == [255, 128, 0, 0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 200], "mode F: its values go from 0 to 200; floats are read in [0, 1]"),
        ([-0.1, 0.5], "go from -0.1 to 0.5"),
        ([np.nan, 0.5], "go from nan to nan"),
        ([np.inf, 0.5], "to inf"),
    ],
)
def test_floats_outside_0_to_1_are_refused_by_name(values: list[float], said: str, tmp_path: Path) -> None:
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "some.tif")
    with pytest.raises(ImageError) as refusal:
        read(tmp_path / "some.tif", 1, 2)
    assert said in str(refusal.value)
    assert "some.tif" in str(refusal.value)


def test_whole_numbers_of_32_bits_are_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "some.tif")
    with pytest.raises(ImageError, match=r"some.tif: mode I: whole numbers of 32 bits have no agreed white"):
        read(tmp_path / "some.tif", 1, 2)


ORIENTATIONS = {
    1: [[0, 1, 2], [3, 4, 5]],
    2: [[2, 1, 0], [5, 4, 3]],
    3: [[5, 4, 3], [2, 1, 0]],
    4: [[3, 4, 5], [0, 1, 2]],
    5: [[0, 3], [1, 4], [2, 5]],
    6: [[3, 0], [4, 1], [5, 2]],
    7: [[5, 2], [4, 1], [3, 0]],
    8: [[2, 5], [1, 4], [0, 3]],
}


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_picture_is_turned_as_its_exif_says(orientation: int, ending: str, tmp_path: Path) -> None:
    """What is kept is what a viewer shows; a square of the shared size would hide a wrong turn."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40).convert("RGB")
    stored.save(tmp_path / f"some.{ending}", exif=exif, **({"lossless": True} if ending == "webp" else {}))
    seen = np.array(ORIENTATIONS[orientation]) * 40
    assert np.array_equal(read(tmp_path / f"some.{ending}", *seen.shape), grey(seen))


def test_exif_that_cannot_be_read_turns_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), RED).save(tmp_path / "some.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read(tmp_path / "some.png", 2, 3).shape == (2, 3, 3)


@pytest.mark.parametrize("ending", ["gif", "tif", "png", "webp"])
def test_of_several_pictures_the_first_is_read(ending: str, tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (2, 2), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if ending == "webp" else {}
    pictures[0].save(tmp_path / f"some.{ending}", save_all=True, append_images=pictures[1:], **options)
    assert (read(tmp_path / f"some.{ending}", 2, 2) == RED).all()
    counts: Counter[str] = Counter()
    pictures[0].save(tmp_path / f"one.{ending}", **options)
    files = [tmp_path / f"some.{ending}", tmp_path / f"one.{ending}"]
    assert [chunk.shape for chunk in decode_files(files, (2, 2), counts)] == [(2, 2, 2, 3)]
    assert counts == {"of several pictures (the first)": 1}


@pytest.mark.parametrize(
    ("values", "dtype", "shape", "seen"),
    [
        ([7], np.uint8, (), [7, 7, 7]),
        ([7], np.uint8, (1,), [7, 7, 7]),
        ([0, 0], np.uint8, (2,), [255, 255, 255]),
        ([1, 2, 3], np.uint8, (3,), [1, 2, 3]),
        ([255, 0, 0, 128], np.uint8, (4,), list(HALF_RED_ON_WHITE)),
        ([0x0100, 0x80FF, 0xFFFF], ">u2", (3,), [1, 128, 255]),
        ([True], np.bool_, (), [255, 255, 255]),
        ([0, 0.5, 1], np.float16, (3,), [0, 128, 255]),
        ([1, 0, 0, 0.5], np.float64, (4,), [255, 127, 127]),
        ([0, 127.6, 255], np.float32, (3,), [0, 128, 255]),
        ([-1e-4, 0.5, 1.0001], np.float32, (3,), [0, 128, 255]),  # what a resize rounds
        ([-1e-4, 127.6, 255.0001], np.float64, (3,), [0, 128, 255]),
    ],
)
def test_arrays_are_read_by_the_same_rules(
    values: list[float], dtype: str, shape: tuple[int, ...], seen: list[int]
) -> None:
    images = np.array(values, dtype=dtype).reshape(1, 1, 1, *shape)
    rule = array_rule(images.dtype, float(images.min()), float(images.max()))
    assert rule(images).tolist() == [[[seen]]]


@pytest.mark.parametrize(
    ("dtype", "low", "high", "said"),
    [
        ("uint16", 0, 255, "reach 255 of 65535, which is black"),
        ("float32", -0.03, 1.04, "go from -0.03 to 1.04; floats are read in [0, 1] and in [0, 255]"),
        ("float32", 0, 1.04, "to 1.04"),
        ("float64", 0, 256, "to 256"),
        ("float32", -0.02, 2.6, "go from -0.02 to 2.6"),  # normalised, not grey levels
        ("float64", np.nan, np.nan, "nan"),
        ("int64", 0, 255, "int64 is not read (allowed: uint8, uint16, bool, floats)"),
        ("complex64", 0, 1, "complex64 is not read"),
    ],
)
def test_arrays_without_a_rule_are_refused_by_name(dtype: str, low: float, high: float, said: str) -> None:
    with pytest.raises(PixelError) as refusal:
        array_rule(np.dtype(dtype), low, high)
    assert said in str(refusal.value)
