"""Ask a learner about pictures of every kind: each is seen as a folder stream sees it, or refused by name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import clbench
from clbench import Learner, Places
from clbench.data.decode import ImageError, decode_file, decode_files
from clbench.deploy.pictures import PictureError, read_pictures

SIZE = (20, 36)  # height and width that the learner's stream stores
SIDES = [(36, 20), (1, 1), (3, 500), (64, 48), (500, 3), (17, 31), (20, 36), (200, 150), (2, 2)]
CLEAR = {"transparency": 3}
KINDS: list[tuple[str, str, dict[str, Any]]] = [
    *(("png", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("png", mode, CLEAR) for mode in ("L", "P")),
    ("png", "RGB", {"transparency": (200, 30, 90)}),
    *(("jpg", mode, {}) for mode in ("L", "RGB", "CMYK")),
    *(("webp", mode, {"lossless": True}) for mode in ("L", "RGB", "RGBA")),
    *(("gif", mode, {}) for mode in ("1", "L", "P")),
    ("gif", "P", CLEAR),
    *(("tif", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F")),
    *(("bmp", mode, {}) for mode in ("1", "L", "P", "RGB")),
]
TURNED = [
    (ending, "RGB", {"turned": turn}) for ending in ("jpg", "png", "tif", "webp") for turn in range(2, 9)
]
ANIMATED = [(ending, "RGB", {"save_all": True}) for ending in ("gif", "png", "tif", "webp")]


def numbers(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def picture(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth gradient with noise, so that a turn, a shift and a lost channel are all seen."""
    rows, columns = np.mgrid[:height, :width]
    slope = np.stack([255 * rows / height, 255 * columns / width, 128 + 0 * rows], axis=-1)
    colours = (0.7 * slope + 0.3 * numbers((height, width, 3), seed)).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(colours[..., 0].astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(colours[..., 0].astype(np.float32) / 255)
    image = Image.fromarray(colours)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(numbers((height, width), seed + 1)))
    return image.convert(mode)


def write(file: Path, mode: str, size: tuple[int, int], options: dict[str, Any], seed: int) -> Path:
    image = picture(mode, *size, seed)
    chosen = dict(options)
    if turn := chosen.pop("turned", 0):
        chosen["exif"] = exif = Image.Exif()
        exif[0x0112] = turn
    if "save_all" in chosen:
        chosen["append_images"] = [picture(mode, *size, seed + frame) for frame in (1, 2)]
    image.save(file, **chosen)
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two hundred sound pictures."""
    folder = tmp_path_factory.mktemp("mixed")
    kinds = islice(cycle([*KINDS, *TURNED, *ANIMATED]), 200)
    return [
        write(folder / f"{number:03d}-{mode.replace(';', '')}.{ending}", mode, size, options, number)
        for number, ((ending, mode, options), size) in enumerate(zip(kinds, cycle(SIDES), strict=False))
    ]


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    """What has learnt two classes of pictures of ``SIZE``."""
    folder = tmp_path_factory.mktemp("learnt")
    for label, channel in (("red", 0), ("blue", 2)):
        (folder / "seen" / label).mkdir(parents=True)
        for number in range(5):
            levels = numbers((*SIZE, 3), number)
            levels[..., channel] = 255
            Image.fromarray(levels).save(folder / "seen" / label / f"{number}.png")
    spec = clbench.resolve(
        {"stream": {"name": f"folder:{folder / 'seen'}", "tasks": "1"}, "strategy": {"name": "simplecil"}}
    )
    record = clbench.execute(spec, out=folder / "runs", places=Places(cache_dir=folder / "cache"))
    made = clbench.load(record.path)
    assert (made.history.height, made.history.width) == SIZE
    return made


def seen(given: Any, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """What a learner gets to see of what it is given."""
    return np.concatenate(list(read_pictures(given, size, batch_size=7)))


def refusal(given: Any) -> str:
    """What is said of what is no picture: one line."""
    with pytest.raises((PictureError, ImageError)) as raised:
        seen(given)
    said = str(raised.value)
    assert "\n" not in said
    return said


def test_every_file_is_predicted_as_a_stream_reads_it(learner: Learner, files: list[Path]) -> None:
    streamed = np.concatenate(list(decode_files(files, SIZE)))
    expected = learner.predict(streamed).scores
    assert torch.equal(learner.predict(files).scores, expected)
    assert torch.equal(learner.predict([str(file) for file in files]).scores, expected)
    assert len(torch.unique(expected, dim=0)) > 190  # a turn of one pixel, and the like, cannot be seen
    for file in files[::10]:
        assert torch.equal(learner.predict(file).scores, learner.predict(decode_file(file, SIZE)).scores)


def test_an_opened_picture_is_seen_as_its_file_is_also_the_second_time(files: list[Path]) -> None:
    for file in files:
        as_file = decode_file(file, SIZE)[None]
        with Image.open(file) as image:
            assert np.array_equal(seen(image), as_file), file.name
            assert np.array_equal(seen(image), as_file), file.name
        with Image.open(file) as loaded:
            loaded.load()
            assert np.array_equal(seen(loaded), as_file), file.name


def truncated(file: Path) -> None:
    write(file, "RGB", (64, 48), {}, seed=0)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


BROKEN: dict[str, Callable[[Path], object]] = {
    **{f"truncated.{ending}": truncated for ending in ("png", "jpg", "webp", "gif", "tif", "bmp")},
    "empty.png": lambda file: file.write_bytes(b""),
    "header.png": lambda file: file.write_bytes(b"\x89PNG\r\n\x1a\n"),
    "text.png": lambda file: file.write_text("a cat,\nas one says"),
    "folder.png": lambda file: file.mkdir(),
    "pipe.png": lambda file: os.mkfifo(file),
    "missing.png": lambda file: None,
    "nowhere.png": lambda file: file.symlink_to(file.with_name("not-there.png")),
    "circle.png": lambda file: file.symlink_to(file),
    "two\nlines.png": lambda file: file.write_text("no picture"),
    "numbers.tif": lambda file: Image.new("I", (4, 4), 70000).save(file),
    "dark.tif": lambda file: Image.new("F", (4, 4), -1.0).save(file),
}


def test_each_broken_file_is_one_line_and_the_others_come(
    learner: Learner, files: list[Path], tmp_path: Path
) -> None:
    mixed = []
    for (name, make), sound in zip(BROKEN.items(), files, strict=False):
        make(tmp_path / name)
        mixed += [tmp_path / name, sound]
    said, answered = [], []
    for file in mixed:
        try:
            answered += learner.predict(file).names
        except ImageError as error:
            said.append(str(error))
    assert len(answered) == len(said) == len(BROKEN)
    for name, line in zip(BROKEN, said, strict=True):
        assert "\n" not in line
        assert name.replace("\n", "\\n") in line
    for name in BROKEN:
        with pytest.raises(ImageError):
            learner.predict([files[0], tmp_path / name])


def levels(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """What an array of this shape shows: its channels as RGB, alpha on white."""
    array = numbers(shape).astype(np.float64)
    colour, alpha = (array[..., :-1], array[..., -1:] / 255) if shape[-1] in (2, 4) else (array, 1.0)
    mixed = colour * alpha + 255 * (1 - alpha)
    return np.broadcast_to(np.rint(mixed), (*shape[:-1], 3)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_arrays_and_tensors_of_every_shape_are_the_same_pictures(channels: int) -> None:
    several = numbers((5, *SIZE, channels))
    shown = levels(several.shape)
    assert np.array_equal(seen(several), shown)
    assert np.array_equal(seen([*several]), shown)
    assert np.array_equal(seen(several[0]), shown[:1])
    tensor = torch.from_numpy(several).movedim(-1, 1)
    assert np.array_equal(seen(tensor), shown)
    assert np.array_equal(seen(tensor.contiguous()), shown)
    assert np.array_equal(seen([*tensor]), shown)
    assert np.array_equal(seen(tensor[2]), shown[2:3])
    if channels == 1:
        assert np.array_equal(seen(several[3, ..., 0]), shown[3:4])
        assert np.array_equal(seen(tensor[3, 0]), shown[3:4])


@pytest.mark.parametrize(
    "of",
    [
        lambda levels: levels.astype(np.uint16) * 257,
        lambda levels: (levels.astype(np.uint16) * 257).astype(">u2"),
        lambda levels: levels.astype(np.float16) / 255,
        lambda levels: levels.astype(np.float32) / 255,
        lambda levels: levels.astype(np.float64) / 255,
        lambda levels: levels.astype(np.float32),
        lambda levels: np.asfortranarray(levels),
        lambda levels: levels[:, ::-1, ::-1][:, ::-1, ::-1],
        lambda levels: np.repeat(levels, 2, axis=2)[:, :, ::2],
        lambda levels: np.ma.masked_array(levels, levels > 9),
        lambda levels: np.frombuffer(levels.tobytes(), np.uint8).reshape(
            levels.shape
        ),  # not to be written to
        lambda levels: torch.from_numpy(levels).movedim(-1, 1).float() / 255,
        lambda levels: torch.from_numpy(levels).movedim(-1, 1).half() / 255,
        lambda levels: torch.from_numpy(levels).movedim(-1, 1).double().requires_grad_(),
        lambda levels: torch.from_numpy(levels.astype(np.uint16) * 257).movedim(-1, 1),
        lambda levels: torch.from_numpy(levels).movedim(-1, 1).to(memory_format=torch.channels_last),
    ],
)
def test_numbers_of_every_type_are_the_same_pictures(of: Callable[[NDArray[np.uint8]], Any]) -> None:
    shown = numbers((3, *SIZE, 3))
    shown[0, 0, 0] = 255  # white, by which floats are told from shares
    assert np.array_equal(seen(of(shown)), shown)


def test_what_is_black_and_white_may_be_bool() -> None:
    bits = numbers((2, *SIZE, 1)) > 99
    shown = np.repeat(bits * np.uint8(255), 3, axis=-1)
    assert np.array_equal(seen(bits), shown)
    assert np.array_equal(seen(torch.from_numpy(bits).movedim(-1, 1)), shown)
    assert np.array_equal(seen(Image.fromarray(bits[0, ..., 0])), shown[:1])


def test_half_precision_of_another_kind_is_read_as_well_as_it_can_be() -> None:
    shown = numbers((3, *SIZE, 3))
    found = seen((torch.from_numpy(shown).movedim(-1, 1) / 255).bfloat16())
    assert np.abs(found.astype(int) - shown).max() <= 1  # it has 8 binary digits


def test_floats_may_lie_beyond_white_by_what_rounding_leaves() -> None:
    for white in (1, 255):
        values = np.array(
            [[-1e-7, 0.25 * white, np.nextafter(np.float32(white), np.float32(999))]], np.float32
        )
        assert seen(values, (1, 3))[0, 0, :, 0].tolist() == [0, 64, 255]
    assert "go from 0 to 1.04" in refusal(np.array([[0, 1.04]]))


@pytest.mark.parametrize("size", [(40, 36), (7, 9), (1, 1), (20, 35)])
def test_a_batch_of_another_size_is_resized_as_files_are(size: tuple[int, int], tmp_path: Path) -> None:
    several = numbers((9, *size, 3))
    written = []
    for number, each in enumerate(several):
        Image.fromarray(each).save(tmp_path / f"{number}.png")
        written.append(tmp_path / f"{number}.png")
    assert np.array_equal(seen(several), seen(written))
    assert np.array_equal(seen(several), seen([Image.fromarray(each) for each in several]))


@pytest.mark.parametrize("mode", sorted({*Image.MODES, "La", "RGBa"} - {"I", "I;16B", "I;16L", "I;16N"}))
def test_a_picture_in_memory_of_any_mode_is_read_and_left_as_it_was(mode: str) -> None:
    image = picture("RGBA" if mode in ("La", "RGBa", "PA", "RGBX") else "RGB", 50, 30)
    if mode in ("I;16", "F"):
        image = picture(mode, 50, 30)
    image = image.convert("LA" if mode == "La" else image.mode).convert(mode)
    before = image.copy()
    assert np.array_equal(seen(image), seen(before))
    assert image == before
    assert seen(image).std() > 20


def test_what_is_seen_of_a_transparent_colour_does_not_depend_on_who_has_loaded_it(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 85, 170, 255]], np.uint8))
    image.save(tmp_path / "some.png", transparency=85)
    expected = [0, 255, 170, 255]
    with Image.open(tmp_path / "some.png") as opened:
        for _ in range(2):
            assert seen(opened, (1, 4))[0, 0, :, 0].tolist() == expected


def test_lists_may_mix_kinds(learner: Learner, files: list[Path]) -> None:
    several = numbers((3, *SIZE, 3))
    mixed = [
        files[4],
        str(files[5]),
        picture("RGBA", 9, 50),
        several,
        several[0, ..., :1],
        torch.zeros(3, 8, 8),
    ]
    alone = [seen(each) for each in mixed]
    assert np.array_equal(seen(mixed), np.concatenate(alone))
    assert np.array_equal(seen(tuple(mixed)), np.concatenate(alone))
    assert len(learner.predict(mixed)) == 8


@pytest.mark.parametrize("none", [[], (), np.zeros((0, 8, 8, 3), np.uint16), torch.zeros(0, 1, 8, 8)])
def test_no_picture_has_no_prediction(learner: Learner, none: Any) -> None:
    found = learner.predict(none)
    assert found.scores.shape == (0, 2)
    assert (found.names, found.top(), found.classes.tolist()) == ([], [], [])


def generator() -> Iterator[NDArray[np.uint8]]:
    yield numbers((8, 8))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (generator(), "generator is no kind of picture (allowed: paths, PIL images, arrays"),
        ({"a": numbers((8, 8))}, "dict is no kind of picture"),
        ({"a.png"}, "set is no kind of picture"),
        (None, "NoneType is no kind of picture"),
        (b"a.png", "bytes is no kind of picture"),
        ([[numbers((8, 8))]], "number 0 of the list: list is no kind of picture"),
        ([[0, 1], [2, 3]], "number 0 of the list: list is no kind of picture"),
        ([numbers((8, 8)), 7], "number 1 of the list: int is no kind of picture"),
        ("", "the image .: it is a folder"),
        ("a\0b", "null byte"),
        (numbers((9, 28, 28)), "an array of shape (9, 28, 28) is no picture (arrays are (H, W), (H, W, C)"),
        (
            numbers((3, 28, 28)),
            "several grey ones have a channel, too, as in array[..., None] or tensor[:, None]",
        ),
        (torch.zeros(9, 28, 28), "a tensor of shape (9, 28, 28) is no picture"),
        (torch.zeros(28, 28, 3), "a tensor of shape (28, 28, 3) is no picture"),
        (torch.zeros(2, 28, 28, 3), "a tensor of shape (2, 28, 28, 3) is no picture"),
        (torch.zeros(3, 0, 5), "a tensor of shape (3, 0, 5) is no picture"),
        (numbers((0, 5)), "an array of shape (0, 5) is no picture"),
        (np.array(7), "an array of shape () is no picture"),
        (torch.zeros(()), "a tensor of shape () is no picture"),
        (np.zeros((1, 2, 8, 8, 3), np.uint8), "an array of shape (1, 2, 8, 8, 3) is no picture"),
        (np.array(["a.png", "b.png"]), "an array of shape (2,) is no picture"),
        (
            np.full((8, 8), "a"),
            "an array of shape (8, 8): <U1 is not read (allowed: uint8, uint16, bool, floats)",
        ),
        (np.full((8, 8), None), "object is not read"),
        (np.zeros((8, 8), "m8[s]"), "timedelta64[s] is not read"),
        (np.zeros((8, 8), complex), "complex128 is not read"),
        (np.zeros((8, 8), [("red", "u1")]), "is not read"),
        (np.full((8, 8), -1), "int64 is not read"),
        (torch.full((8, 8), -1), "a tensor of shape (8, 8): int64 is not read"),
        (torch.zeros(8, 8, dtype=torch.complex64), "complex64 is not read"),
        (np.full((8, 8), -0.5), "go from -0.5 to -0.5; floats are read in [0, 1] and in [0, 255]"),
        (np.array([[0.5, np.nan]]), "go from nan to nan"),
        (torch.tensor([[0.5, torch.inf]]), "go from 0.5 to inf"),
        (
            [numbers((8, 8)), np.full((8, 8), np.nan)],
            "number 1 of the list: an array of shape (8, 8): its values",
        ),
        (np.full((8, 8), 200, np.uint16), "reach 200 of 65535, which is black"),
        (torch.eye(8).to_sparse(), "a tensor that is no array of numbers"),
        (torch.zeros(8, 8, device="meta"), "a tensor that is no array of numbers"),
        (Image.new("RGB", (0, 5)), "cannot read the PIL image of 0 x 5 pixels: 0 x 5 pixels show nothing"),
        (
            Image.new("I", (5, 5)),
            "cannot read the PIL image of 5 x 5 pixels: mode I: whole numbers of 32 bits",
        ),
    ],
)
def test_what_is_no_picture_is_told_in_one_line(given: Any, said: str) -> None:
    assert said in refusal(given)


def test_a_picture_that_was_opened_is_named_if_it_is_broken(tmp_path: Path) -> None:
    truncated(tmp_path / "some.png")
    with Image.open(tmp_path / "some.png") as image:
        assert "some.png: image file is truncated" in refusal(image)
    with Image.open(write(tmp_path / "closed.png", "RGB", (8, 8), {}, 0)) as image:
        pass
    assert "cannot read the PIL image" in refusal(image)


def test_pillow_does_not_warn_of_what_is_read_all_the_same(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "some.png", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\xff\xff")
    with warnings.catch_warnings(), Image.open(tmp_path / "some.png") as image:
        warnings.simplefilter("error")
        assert np.array_equal(seen(image), seen(tmp_path / "some.png"))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_holds_a_picture(learner: Learner, batch_size: int) -> None:
    with pytest.raises(PictureError, match=f"batch_size is {batch_size}"):
        learner.predict(numbers((8, 8)), batch_size=batch_size)
    assert len(learner.predict(numbers((5, 8, 8, 3)), batch_size=2)) == 5


def test_of_a_large_batch_no_more_is_held_than_is_seen_at_a_time() -> None:
    batches = read_pictures(np.broadcast_to(numbers((8, 8, 1)), (1 << 30, 8, 8, 1)), (64, 64), batch_size=3)
    assert next(batches).shape == (3, 64, 64, 3)
