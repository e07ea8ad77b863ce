"""Frozen features, prefixes and queries are computed once, and predictions are the same without that."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from clbench import petl
from clbench.backbones.backbone import Backbone
from clbench.backbones.prefix import entering, leaving
from clbench.data.batches import Batcher, in_order
from clbench.data.feature_cache import FEWEST, FeatureCache
from clbench.data.inputs import Batch, Inputs
from clbench.evaluate.results import COLUMNS
from clbench.files import temporary_path
from clbench.outside.finite import NotFiniteError
from clbench.petl.attached import Attached
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.runs.line import execute
from clbench.seeds import Seeds
from clbench.streams import Places
from clbench.testing.generated import small_backbone

pytestmark = pytest.mark.usefixtures("no_figures")

ROWS = np.arange(6)


@pytest.fixture
def backbone() -> Backbone:
    return small_backbone()


class Counted:
    """A cache of ten random images, and the number of images that it computed."""

    def __init__(self, backbone: Backbone, folder: Path | None = None, augment: str = "none") -> None:
        images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3)).astype(np.uint8)
        self.batcher = Batcher(images, backbone.preprocessing, augment, torch.device("cpu"))
        self.num_computed = 0
        self.cache = FeatureCache(self.batcher, batch_size=4, folder=folder, account=self)
        self.num_charged = 0.0

    def encoded(self, num_images, compute, *, is_known):
        self.num_computed += num_images
        return compute(), float(max(FEWEST, num_images))  # as if each image took one operation

    def charge(self, flops):
        self.num_charged += flops

    def inputs(self, rows=ROWS) -> Inputs:
        return Inputs(batcher=self.batcher, rows=np.array(rows), cache=self.cache)


def attached(backbone: Backbone, name: str, **options: object) -> Attached:
    """A module with random values everywhere, so that it changes the features."""
    generator = Seeds(0).generator("petl")
    module = petl.get(name)(**options).attach(backbone, generator)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return module


def test_features_are_computed_once_an_image(backbone: Backbone):
    counted = Counted(backbone)
    first = counted.inputs().features(backbone)
    again = counted.inputs([5, 0, 5]).features(backbone)
    assert counted.num_computed == 6
    assert torch.equal(again, first[[5, 0, 5]])
    torch.testing.assert_close(first, backbone(counted.batcher.test_batch(ROWS)))


def test_what_is_known_of_an_image_does_not_depend_on_the_others_in_its_batch(backbone: Backbone):
    """A product with a single row is rounded in another way than one with several, on some processors."""
    batch = Counted(backbone).inputs(range(10)).features(backbone)
    alone = [Counted(backbone).inputs([row]).features(backbone) for row in range(10)]
    left_over = Counted(backbone)
    left_over.cache.expect("test", np.arange(5))  # four and one
    assert torch.equal(torch.cat(alone), batch)
    assert torch.equal(left_over.inputs([0, 4]).features(backbone), batch[[0, 4]])


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(0, 4, []), (1, 4, [1]), (4, 4, [4]), (5, 4, [3, 2]), (9, 4, [4, 3, 2]), (6, 4, [4, 2]), (3, 2, [2, 1])],
)
def test_no_image_is_left_to_a_batch_of_its_own(count: int, size: int, sizes: list[int]):
    slices = list(in_order(count, size))
    assert [each.stop - each.start for each in slices] == sizes
    assert [place for each in slices for place in range(count)[each]] == list(range(count))


def test_all_rows_that_are_expected_are_computed_at_the_first_miss(backbone: Backbone):
    counted = Counted(backbone)
    counted.cache.expect("test", np.arange(8))
    counted.inputs([7]).features(backbone)
    assert counted.num_computed == 8


def test_a_second_run_reads_the_features_of_the_first_from_its_folder(backbone: Backbone, tmp_path: Path):
    first = Counted(backbone, tmp_path)
    features = first.inputs().features(backbone)
    first.cache.save()
    second = Counted(backbone, tmp_path)
    assert torch.equal(second.inputs([3, 1]).features(backbone), features[[3, 1]])
    assert second.num_computed == 0


def test_each_image_is_charged_once_wherever_its_features_come_from(backbone: Backbone, tmp_path: Path):
    first = Counted(backbone, tmp_path)
    first.cache.expect_parts([np.arange(4), np.arange(4, 10)])
    first.inputs([0, 5]).features(backbone)  # brings its part with it
    assert (first.num_computed, first.num_charged) == (10, 10)
    first.inputs().features(backbone)
    assert first.num_charged == 10
    first.cache.save()
    second = Counted(backbone, tmp_path)
    second.cache.expect_parts([np.arange(4), np.arange(4, 10)])
    second.inputs([5]).features(backbone)
    assert (second.num_computed, second.num_charged) == (0, 6)  # paid with its part, as before


def test_what_was_charged_before_a_stop_is_not_charged_again(backbone: Backbone):
    first = Counted(backbone)
    first.inputs([0, 1, 2]).features(backbone)
    resumed = Counted(backbone)
    resumed.cache.load(json.loads(json.dumps(first.cache.state())))
    resumed.inputs([1, 2, 3]).features(backbone)
    assert (resumed.num_computed, resumed.num_charged) == (3, 1)


def test_what_is_new_is_written_when_there_is_enough_of_it(backbone: Backbone, tmp_path: Path):
    counted = Counted(backbone, tmp_path)
    counted.inputs(np.arange(8)).features(backbone)
    counted.cache.save(growth=1.25)
    counted.inputs([8]).features(backbone)
    counted.cache.save(growth=1.25)
    assert [len(load_file(file)["rows"]) for file in tmp_path.iterdir()] == [8]
    counted.cache.save()
    assert sorted(len(load_file(file)["rows"]) for file in tmp_path.iterdir()) == [1, 8]


def test_a_damaged_file_is_computed_anew_and_told_of(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    first = Counted(backbone, tmp_path)
    features = first.inputs().features(backbone)
    first.cache.save()
    (file,) = tmp_path.iterdir()
    assert set(load_file(file)) == {"rows", "values"}
    whole = file.read_bytes()
    told = []
    for place in (None, 0, 9, 60, len(whole) // 2, len(whole) - 1):
        data = bytearray(whole)
        if place is None:
            del data[40:]
        else:
            data[place] ^= 4
        file.write_bytes(data)
        second = Counted(backbone, tmp_path)
        assert torch.equal(second.inputs().features(backbone), features)
        assert second.num_computed == 6
        told += [message for message in caplog.messages if str(file) in message]
        caplog.clear()
        assert not file.exists()
    assert len(told) == 6
    assert all("damaged" in each and "\n" not in each for each in told)


def test_a_task_writes_what_is_new_and_the_next_run_reads_it_all(backbone: Backbone, tmp_path: Path):
    first = Counted(backbone, tmp_path)
    features = []
    for rows in ([0, 1], [1, 2, 3], [4]):
        features.append(first.inputs(rows).features(backbone))
        first.cache.save()
    assert sorted(len(load_file(file)["rows"]) for file in tmp_path.iterdir()) == [1, 2, 2]
    second = Counted(backbone, tmp_path)
    assert torch.equal(second.inputs([4, 0, 1, 3]).features(backbone)[1:3], features[0])
    assert second.num_computed == 0
    second.cache.save()
    assert len(list(tmp_path.iterdir())) == 3


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("trouble", ["no space", "no folder"])
def test_features_that_cannot_be_kept_are_used_all_the_same(
    trouble: str,
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    folder = tmp_path / "features"
    if trouble == "no space":
        monkeypatch.setattr(os, "fsync", full)
    else:
        folder.write_text("in the way")
    counted = Counted(backbone, folder)
    for rows in (ROWS, [7]):
        counted.inputs(rows).features(backbone)
        counted.cache.save()
    (told,) = caplog.messages
    assert told.startswith("features are kept in memory only")
    counted.inputs().features(backbone)
    assert counted.num_computed == 7
    assert not list(tmp_path.glob("features/*"))


def test_what_a_killed_process_began_to_write_is_swept(backbone: Backbone, tmp_path: Path):
    living = temporary_path(tmp_path / "living")
    gone = living.with_name(living.name.replace(f".{os.getpid()}.", ".999999999."))
    for file in (gone, living):
        file.write_bytes(b"half")
        os.utime(file, (1, 1))
    counted = Counted(backbone, tmp_path)
    counted.inputs().features(backbone)
    counted.cache.save()
    assert not gone.exists()
    assert living.exists()


def test_other_pixels_under_the_same_rows_are_other_images(backbone: Backbone, tmp_path: Path):
    first = Counted(backbone, tmp_path)
    first.inputs().features(backbone)
    first.cache.save()
    second = Counted(backbone, tmp_path)
    second.batcher.images = second.batcher.images[::-1].copy()
    second.inputs().features(backbone)
    assert second.num_computed == 6


def test_a_frozen_module_has_features_of_its_own_and_they_follow_its_values(backbone: Backbone):
    counted = Counted(backbone)
    plain = counted.inputs().features(backbone)
    module = attached(backbone, "adapter").requires_grad_(False)
    adapted = counted.inputs().features(backbone)
    assert counted.num_computed == 12
    torch.testing.assert_close(adapted, backbone(counted.batcher.test_batch(ROWS)))
    with torch.no_grad():
        next(module.parameters()).add_(1)
    changed = counted.inputs().features(backbone)
    assert counted.num_computed == 18
    assert not torch.allclose(changed, adapted)
    module.enabled = False
    assert torch.equal(counted.inputs().features(backbone), plain)
    assert counted.num_computed == 18


def test_nothing_is_kept_of_a_module_that_learns_from_the_first_block(backbone: Backbone):
    counted = Counted(backbone)
    attached(backbone, "adapter")
    counted.inputs().features(backbone)
    assert backbone.first_changing_block == 0
    assert counted.num_computed == 0


def test_a_module_that_drops_out_is_not_frozen_while_it_trains(backbone: Backbone):
    counted = Counted(backbone)
    module = attached(backbone, "adaptformer").requires_grad_(False)
    module.train()
    counted.inputs().features(backbone)
    assert counted.num_computed == 0
    module.eval()
    counted.inputs().features(backbone)
    assert counted.num_computed == 6


class LastBlocks(petl.Petl):
    """A scale and shift of the third block's attention only: the two before it never change."""

    def branches(self, backbone, generator):
        ssf = petl.get("ssf")()
        yield from (
            (site, branch) for site, branch in ssf.branches(backbone, generator) if "block[2]" in site.name
        )


def test_only_the_blocks_that_a_module_reaches_are_computed_again(backbone: Backbone):
    counted = Counted(backbone)
    module = LastBlocks().attach(backbone, Seeds(0).generator("petl"))
    assert backbone.first_changing_block == 2
    features = counted.inputs().features(backbone)
    assert counted.num_computed == 6  # what enters the third block
    torch.testing.assert_close(features, backbone(counted.batcher.test_batch(ROWS)))
    features.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5)
    torch.testing.assert_close(
        counted.inputs().features(backbone), backbone(counted.batcher.test_batch(ROWS))
    )
    assert counted.num_computed == 6


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_network_in_two_parts_gives_what_the_whole_gives(backbone: Backbone, index: int):
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = backbone(images)
    assert torch.equal(leaving(backbone, index, entering(backbone, index, images)), whole)
    assert torch.equal(backbone(images), whole)  # everything is in its place again


def test_a_file_with_features_that_are_not_finite_is_computed_again(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    first = Counted(backbone, tmp_path)
    expected = first.inputs().features(backbone)
    first.cache.save()
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    tensors["values"][2, 1] = torch.inf
    file.unlink()  # its name is that of what it holds
    data = save(tensors)
    key, digest = file.stem.rpartition("-")[0], hashlib.sha256(data).hexdigest()[:16]
    (tmp_path / f"{key}-{digest}.safetensors").write_bytes(data)
    again = Counted(backbone, tmp_path)
    assert torch.equal(again.inputs().features(backbone), expected)
    assert again.num_computed == 6
    assert "it holds nan or inf in 1 of 192 places, the first inf at [2, 1]" in caplog.text


def test_features_that_are_not_finite_are_refused_when_they_are_made(backbone: Backbone, tmp_path: Path):
    with torch.no_grad():
        list(backbone.parameters())[-1][5] = torch.nan
    line = r"^backbone small-vit \(random weights\): what it makes of rows 0 to 0 holds nan or inf in 1 of 32"
    counted = Counted(backbone, tmp_path)
    with pytest.raises(NotFiniteError, match=line):
        counted.inputs().features(backbone)
    counted.cache.save()
    assert list(tmp_path.iterdir()) == []


def test_augmented_images_are_computed_each_time(backbone: Backbone):
    counted = Counted(backbone, augment="crop-flip")
    batch = Batch(
        batcher=counted.batcher,
        rows=ROWS,
        cache=counted.cache,
        labels=torch.zeros(6, dtype=torch.int64),
        task=0,
        seeds=Seeds(0),
        position=(0, 0, 0),
    )
    batch.features(backbone)
    assert counted.num_computed == 0
    batch.plain().features(backbone)
    assert counted.num_computed == 6


def run(strategy: str, folder: Path, **run_options: object) -> Record:
    spec = resolve(
        {
            "stream": {"train_per_class": 10, "test_per_class": 5},
            "strategy": {"name": strategy},
            "run": run_options,
        }
    )
    return execute(spec, out=folder, places=Places(None, folder), progress=Progress(), command="")


@pytest.mark.parametrize("strategy", ["simplecil", pytest.param("naive-linear", marks=pytest.mark.slow)])
def test_an_exact_run_predicts_the_same(strategy: str, tmp_path: Path):
    cached, again, exact = (
        run(strategy, tmp_path),
        run(strategy, tmp_path),
        run(strategy, tmp_path, exact=True),
    )
    for name in COLUMNS[:-1]:
        assert np.array_equal(cached.predictions()[name], exact.predictions()[name])
        assert np.array_equal(cached.predictions()[name], again.predictions()[name])
    images = [
        record.read_json("costs.json")["time"].get("encode", {"images": 0})["images"]
        for record in (cached, again, exact)
    ]
    assert images == [10 * 5 + (10 * 9 if strategy == "simplecil" else 0), 0, 0]
