"""Whatever is handed over, what comes of it is what was meant or one line: never a traceback."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from PIL import Image

from clbench import petl, strategies, streams
from clbench.data.tasks import Places, TaskStream
from clbench.errors import UserError
from clbench.options import build
from clbench.outside.reading import parse_toml
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.seeds import Seeds

NUM_INPUTS = 40 * int(os.environ.get("CLBENCH_TORTURE", "1"))  # of each kind
many = settings(
    max_examples=NUM_INPUTS,
    deadline=None,
    derandomize=True,  # the same inputs in every run
    suppress_health_check=list(HealthCheck),
)
BARE = [name for name in strategies.names() if "." not in name]
VALUES = some.one_of(
    some.booleans(),
    some.integers(),
    some.floats(),
    some.text(max_size=20),
    some.lists(some.integers(), max_size=3),
)
TABLES = some.recursive(
    VALUES, lambda inner: some.dictionaries(some.text(max_size=12), inner, max_size=4), max_leaves=12
)
SECTIONS = some.sampled_from(
    ["stream", "strategy", "backbone", "petl", "run", "quant", "compress", "variant", "parent", "other"]
)
OPTIONS = some.sampled_from(
    ["name", "epochs", "learning_rate", "seed", "budget", "scored_on", "tasks", "bits", "metrics", "weights"]
)


def check_line(told: str) -> None:
    assert told.strip()
    assert "\n" not in told


class Outcomes:
    """Counts what came of inputs."""

    def __init__(self) -> None:
        self.taken = self.refused = 0

    @contextmanager
    def one_line(self) -> Iterator[None]:
        """Count what happens in the block: it ends well, or with one line for the user."""
        try:
            yield
        except UserError as error:
            check_line(str(error))
            self.refused += 1
        else:
            self.taken += 1


@pytest.fixture
def outcomes(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[Outcomes]:
    found = Outcomes()
    yield found
    name = request.node.name.removeprefix("test_").replace("_", " ")
    total = found.taken + found.refused
    record_property(
        "torture", f"{name}: {total} inputs, {found.taken} taken, {found.refused} told in one line"
    )


@given(
    strategy=some.sampled_from(BARE),
    module=some.sampled_from(petl.names()),
    seed=some.integers(0, 2**40),
    epochs=some.integers(1, 10**6),
    rate=some.floats(1e-12, 1e6, allow_subnormal=False),
    budget=some.one_of(some.just(""), some.integers(1, 10**14).map(str)),
    scored_on=some.sampled_from(["test", "validation"]),
)
@many
def check_specs(outcomes: Outcomes, budget: str, scored_on: str, seed: int, **chosen: Any) -> None:
    options = {"epochs": chosen["epochs"], "learning_rate": chosen["rate"]}
    sections = {
        "strategy": {"name": f"{chosen['strategy']}-{chosen['module']}", **options},
        "run": {"seed": seed, "device": "cpu", "budget": budget, "scored_on": scored_on},
    }
    with outcomes.one_line():
        spec = resolve(sections)
        assert RunSpec.from_toml(spec.to_toml()) == spec
        assert RunSpec.from_toml(spec.to_toml()).id == spec.id
        assert resolve(parse_toml(spec.to_toml())).id == spec.id


@given(text=some.one_of(some.text(), some.binary().map(lambda data: data.decode("utf-8", "replace"))))
@many
def check_texts(outcomes: Outcomes, text: str) -> None:
    with outcomes.one_line():
        RunSpec.from_toml(text)


@given(tables=some.dictionaries(SECTIONS, some.dictionaries(OPTIONS, TABLES, max_size=4), max_size=4))
@many
def check_tables(outcomes: Outcomes, tables: dict[str, Any]) -> None:
    with outcomes.one_line():
        spec = resolve(parse_toml(tomli_w.dumps(tables)))
        assert RunSpec.from_toml(spec.to_toml()).id == spec.id


def test_any_spec(outcomes: Outcomes) -> None:
    check_specs(outcomes)
    assert outcomes.taken > outcomes.refused


def test_any_text_as_a_spec(outcomes: Outcomes) -> None:
    check_texts(outcomes)
    assert outcomes.refused > 0


def test_any_tables_as_a_spec(outcomes: Outcomes) -> None:
    check_tables(outcomes)
    assert outcomes.refused > 0


def spoilt_toml(outcomes: Outcomes) -> Callable[[], None]:
    whole = resolve({"strategy": {"name": "er"}, "run": {"device": "cpu"}}).to_toml().encode()

    @given(place=some.integers(0, len(whole) - 1), other=some.binary(max_size=3), gone=some.integers(0, 5))
    @many
    def check(place: int, other: bytes, gone: int) -> None:
        with outcomes.one_line():
            data = whole[:place] + other + whole[place + gone :]
            spec = RunSpec.from_toml(data.decode("utf-8", "replace"))
            assert RunSpec.from_toml(spec.to_toml()).id == spec.id

    return check


def test_any_change_of_a_spec(outcomes: Outcomes) -> None:
    spoilt_toml(outcomes)()
    assert outcomes.taken > 0


DTYPES = some.sampled_from(
    [
        "uint8",
        "uint16",
        "int64",
        "bool",
        "float16",
        "float32",
        "float64",
        "complex64",
        "S3",
        "U2",
        "datetime64[s]",
    ]
)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
ARRAYS = some.one_of(
    arrays.arrays(dtype=DTYPES, shape=SHAPES),
    arrays.arrays(dtype="uint8", shape=some.tuples(some.just(4), some.just(5), some.just(5), some.just(3))),
    arrays.arrays(dtype="int64", shape=4, elements=some.integers(-1, 3)),
)
KEYS = some.sampled_from(["train_x", "train_y", "test_x", "test_y", "names", "other"])


def whole_stream(name: str, folder: Path) -> TaskStream:
    """Return the stream of what was handed over, if each image of a part is there once."""
    kind, option = streams.split(name)
    stream = build(streams.get(kind), "stream", {**option, "tasks": "1", "validation_rate": 0.0})
    built = stream.build(kind, Places(cache_dir=folder / "cache"), Seeds(0))
    rows = np.concatenate([part.rows for task in built.tasks for part in (task.train, task.test)])
    assert len(np.unique(rows)) == len(rows)
    assert all(set(task.train.labels.tolist()) <= set(task.classes) for task in built.tasks)
    return built


@given(held=some.dictionaries(KEYS, ARRAYS, max_size=5), cut=some.one_of(some.none(), some.integers(0, 400)))
@many
def check_npz(outcomes: Outcomes, held: dict[str, Any], cut: int | None) -> None:
    folder = Path(tempfile.mkdtemp(prefix="clbench-"))
    try:
        buffer = io.BytesIO()
        np.savez(buffer, **held)
        (folder / "any.npz").write_bytes(buffer.getvalue()[:cut])
        with outcomes.one_line():
            whole_stream(f"npz:{folder / 'any.npz'}", folder)
    finally:
        shutil.rmtree(folder)


@given(
    labels=some.lists(some.integers(0, 2), min_size=2, max_size=8),
    form=some.sampled_from(["", "1", "3", "4"]),
)
@many
def check_good_npz(outcomes: Outcomes, labels: list[int], form: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="clbench-"))
    try:
        shape = (len(labels), 5, 6, *([int(form)] if form else []))
        images = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
        parts = {f"{part}_x": images for part in ("train", "test")}
        np.savez(folder / "any.npz", **parts, train_y=labels, test_y=labels)  # type: ignore[arg-type]
        with outcomes.one_line():
            built = whole_stream(f"npz:{folder / 'any.npz'}", folder)
            assert sum(len(task.train) for task in built.tasks) == len(labels)
    finally:
        shutil.rmtree(folder)


def test_any_npz(outcomes: Outcomes) -> None:
    check_npz(outcomes)
    assert outcomes.refused > 0
    check_good_npz(outcomes)
    assert outcomes.taken > 0


NAMES = some.text(
    some.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12
).filter(lambda name: name not in (".", ".."))
ENDINGS = some.sampled_from([".png", ".jpg", ".PNG", ".gif", ".bmp", ".txt", ""])
MODES = some.sampled_from(["RGB", "L", "P", "1", "LA", "RGBA", "CMYK", "I;16", "F"])


def huge_png() -> bytes:
    """Return a PNG whose header promises far more pixels than it holds."""
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk


@some.composite
def pictures(draw: some.DrawFn) -> bytes:
    kind = draw(some.sampled_from(["whole", "whole", "whole", "cut", "bytes", "huge"]))
    if kind == "bytes":
        return draw(some.binary(max_size=60))
    if kind == "huge":
        return huge_png()
    mode, form = draw(MODES), draw(some.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF"]))
    size = (draw(some.integers(1, 9)), draw(some.integers(1, 9)))
    buffer = io.BytesIO()
    try:
        Image.new(mode, size).save(buffer, form)
    except (OSError, KeyError, ValueError):  # not every format holds every mode
        buffer = io.BytesIO()
        Image.new("RGB", size).save(buffer, "PNG")
    data = buffer.getvalue()
    return data[: draw(some.integers(0, len(data)))] if kind == "cut" else data


FILES = some.lists(
    some.tuples(some.lists(NAMES, min_size=1, max_size=3), NAMES, ENDINGS, pictures()), max_size=6
)


@given(files=FILES, has_parts=some.booleans())
@many
def check_folders(
    outcomes: Outcomes, files: list[tuple[list[str], str, str, bytes]], has_parts: bool
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="clbench-"))
    try:
        for number, (above, name, ending, data) in enumerate(files):
            parts = [("train", "test")[number % 2], *above] if has_parts else above
            place = folder.joinpath("images", *parts)
            try:
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{name}{ending}").write_bytes(data)
            except OSError:  # a file is where a folder should be, or a name is too long
                continue
        with outcomes.one_line():
            whole_stream(f"folder:{folder / 'images'}", folder)
    finally:
        shutil.rmtree(folder)


def test_any_folder_of_images(outcomes: Outcomes) -> None:
    check_folders(outcomes)
    assert outcomes.refused > 0
