"""The cache of decoded images: made once, checked at each opening, never half there."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clbench.data.cache import CacheError, Decoding, cached
from clbench.data.folders import list_folder
from clbench.data.listings import read_listing
from clbench.data.npz import read_npz
from clbench.data.pixels import RULES
from clbench.data.samples import join
from clbench.streams import Source

IMAGES = np.random.default_rng(0).integers(0, 256, size=(6, 4, 5, 3), dtype=np.uint8)


class Collection:
    """Six images that count how often they are decoded."""

    def __init__(self) -> None:
        self.times_decoded = 0
        self.fails = False

    def decode(self) -> Decoding:
        self.times_decoded += 1
        labels = np.array([0, 1, 0, 1])
        names = ["ant", "bee"]
        return Decoding(4, 5, labels, labels[:2], names, self.chunks(), tasks=[[1], [0]])

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        yield IMAGES[:4]
        if self.fails:
            raise KeyboardInterrupt
        yield IMAGES[4:]

    def open(self, cache_dir: Path, fingerprint: str = "one") -> Source:
        return cached("some: name", cache_dir=cache_dir, fingerprint=fingerprint, decode=self.decode)


def entry(cache_dir: Path) -> Path:
    (folder,) = cache_dir.iterdir()
    return folder


def test_images_are_decoded_once_and_come_back_as_they_were(tmp_path: Path) -> None:
    collection = Collection()
    for _ in range(2):
        source = collection.open(tmp_path)
        assert np.array_equal(source.train.images[source.train.rows], IMAGES[:4])
        assert np.array_equal(source.test.images[source.test.rows], IMAGES[4:])
        assert source.train.labels.tolist() == [0, 1, 0, 1]
        assert source.test.labels.tolist() == [0, 1]
        assert (source.class_names, source.tasks) == (["ant", "bee"], [[1], [0]])
    assert collection.times_decoded == 1


def test_both_parts_share_one_array_that_cannot_be_written_to(tmp_path: Path) -> None:
    source = Collection().open(tmp_path)
    assert len(join([source.train, source.test])) == 6
    with pytest.raises(ValueError, match="read-only"):
        source.train.images[0] = 0


def test_a_changed_collection_is_decoded_anew(tmp_path: Path) -> None:
    collection = Collection()
    collection.open(tmp_path, "one")
    collection.open(tmp_path, "two")
    assert collection.times_decoded == 2


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "about.json"])
def test_a_damaged_entry_is_made_again(damage: Callable[[Path], None], file: str, tmp_path: Path) -> None:
    collection = Collection()
    collection.open(tmp_path)
    damage(entry(tmp_path) / file)
    source = collection.open(tmp_path)
    assert collection.times_decoded == 2
    assert np.array_equal(source.train.images, IMAGES)
    collection.open(tmp_path)
    assert collection.times_decoded == 2


def test_an_interrupted_decoding_leaves_nothing_behind(tmp_path: Path) -> None:
    collection = Collection()
    collection.fails = True
    with pytest.raises(KeyboardInterrupt):
        collection.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_began_to_write_is_no_entry(tmp_path: Path) -> None:
    collection = Collection()
    collection.open(tmp_path)
    whole = entry(tmp_path)
    killed = whole.rename(tmp_path / f".{whole.name}.another-machine.1.tmp")
    assert np.array_equal(collection.open(tmp_path).train.images, IMAGES)
    assert collection.times_decoded == 2
    assert killed.exists()  # whoever it is may be at work
    for path in (killed, *killed.iterdir()):
        os.utime(path, (1, 1))
    collection.open(tmp_path, "two")
    assert not killed.exists()


@pytest.fixture
def cache_in_a_file(tmp_path: Path) -> Path:
    """A folder that cannot be made, whoever tries."""
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "cache"


def test_without_a_cache_folder_images_are_decoded_for_each_run(
    cache_in_a_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collection = Collection()
    source = collection.open(cache_in_a_file)
    (told,) = caplog.messages
    assert told.startswith(f"cannot keep decoded images in {cache_in_a_file}: not a directory")
    assert np.array_equal(source.train.images, IMAGES)
    assert (source.test.labels.tolist(), source.tasks) == ([0, 1], [[1], [0]])
    with pytest.raises(ValueError, match="read-only"):
        source.train.images[0] = 0
    collection.fails = True
    with pytest.raises(KeyboardInterrupt):  # what is wrong with the images is nothing that memory mends
        collection.open(cache_in_a_file)


def test_images_that_fit_nowhere_are_refused_in_one_line(
    cache_in_a_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=IMAGES.nbytes - 1))
    with pytest.raises(CacheError, match="too many for the memory") as refusal:
        Collection().open(cache_in_a_file)
    assert "\n" not in str(refusal.value)


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit on the size of files makes the write fail as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        assert np.array_equal(Collection().open(tmp_path).train.images, IMAGES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
    assert "file too large; free space" in caplog.messages[0]


def test_unpacking_takes_a_small_part_of_the_images_size(tmp_path: Path) -> None:
    images = np.zeros((24_000, 32, 32, 3), dtype=np.uint8)  # 74 MB
    labels = np.zeros(24_000, dtype=np.int64)
    np.savez_compressed(
        tmp_path / "some.npz", train_x=images, train_y=labels, test_x=images[:10], test_y=labels[:10]
    )
    del images
    tracemalloc.start()
    source = read_npz(tmp_path / "some.npz", cache_dir=tmp_path / "cache")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(source.train) == 24_000
    assert peak < 25e6  # a few chunks of 4 MB at a time


def write_pictures(root: Path, *, is_touched: bool) -> None:
    """Write two classes of two images, of which one has a hidden colour or none has."""
    for name, colour in (("ant", (9, 9, 9)), ("bee", (200, 0, 0))):
        (root / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (4, 4), colour).save(root / name / f"{number}.png")
    if is_touched:
        Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(root / "bee" / "1.png")


def read_pictures(tmp_path: Path) -> Source:
    return read_listing(list_folder(tmp_path / "tree"), "tree", cache_dir=tmp_path / "cache", stored_size=0)


def as_decoded_before(cache_dir: Path) -> Path:
    """Make of an entry what it was before there were rules: with the hidden colour, and no word of rules."""
    folder = entry(cache_dir)
    about = json.loads((folder / "about.json").read_text())
    del about["rules"], about["notes"]
    images = np.load(folder / "images.npy")
    images[images.min(axis=(1, 2, 3)) == 255] = (200, 0, 0)
    np.save(folder / "images.npy", images)
    about["checksums"]["images.npy"] = zlib.crc32((folder / "images.npy").read_bytes())
    (folder / "about.json").write_text(json.dumps(about))
    return folder / "images.npy"


def test_a_decoding_by_former_rules_is_kept_where_no_rule_touches_its_images(tmp_path: Path) -> None:
    write_pictures(tmp_path / "tree", is_touched=False)
    read_pictures(tmp_path)
    images = as_decoded_before(tmp_path / "cache")
    before = images.stat().st_mtime_ns
    for _ in range(2):
        read_pictures(tmp_path)
        assert images.stat().st_mtime_ns == before
    assert json.loads((images.parent / "about.json").read_text())["rules"] == RULES


def test_a_decoding_by_former_rules_is_made_anew_where_one_image_is_touched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pictures(tmp_path / "tree", is_touched=True)
    right = np.array(read_pictures(tmp_path).train.images)
    images = as_decoded_before(tmp_path / "cache")
    assert not np.array_equal(np.load(images), right)
    source = read_pictures(tmp_path)
    assert "read by rules that have changed" in caplog.text
    assert np.array_equal(source.train.images, right)
    assert source.notes == ("of 4 images: 1 with alpha or a transparent colour (on white)",)


def test_what_the_disk_has_no_room_for_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=359))
    with pytest.raises(CacheError, match=r"they take 0.0 GiB and 0.0 GiB are free"):
        Collection().open(tmp_path)  # 6 images of 4 x 5 x 3 bytes
    assert list(tmp_path.iterdir()) == []
