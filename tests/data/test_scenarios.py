"""Scenarios as options of any stream: who comes when and how often, what is copied, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clbench import streams
from clbench.data.cache import as_source
from clbench.data.orders import ProtocolError
from clbench.data.protocol import cut
from clbench.data.scenarios.corruptions import CORRUPTIONS
from clbench.seeds import Seeds
from clbench.streams import Places, Source, Stream, TaskStream
from clbench.testing import check_stream

SIDE = 4


def collection(num_classes: int = 10, per_class: int = 20) -> Source:
    """Return random images, ``per_class`` for training and five for testing of each class, shuffled."""
    labels = np.tile(np.arange(num_classes), per_class + 5)
    shape = (len(labels), SIDE, SIDE, 3)
    images = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    names = [f"name {number}" for number in range(num_classes)]
    return as_source(images, labels, num_classes * per_class, names)


def with_domains(source: Source) -> Source:
    """Return the collection with its first half of images drawn, its second half painted, in both parts."""
    domain = np.zeros(len(source.train.images), dtype=np.int64)
    for part in (source.train, source.test):
        domain[part.rows[len(part) // 2 :]] = 1
    return replace(source, domain=domain, domain_names=["drawn", "painted"])


@dataclass
class Generated(Stream):
    """A stream that is cut from a given source and never loaded."""

    def load(self, places: Places) -> Source:
        """Nothing to load."""
        raise AssertionError("not called")


def cut_with(source: Source | None = None, seed: int = 0, **options: Any) -> TaskStream:
    chosen = {"tasks": "5", "validation_rate": 0.0, **options}
    return cut(Generated(**chosen), name="generated", source=source or collection(), seeds=Seeds(seed))


def counts(stream: TaskStream) -> NDArray[np.int64]:
    """Return how many training images (task, class) has."""
    num_classes = len(stream.class_order)
    return np.stack([np.bincount(task.train.labels, minlength=num_classes) for task in stream.tasks])


def training_rows(stream: TaskStream) -> list[int]:
    return [int(row) for task in stream.tasks for row in task.train.rows]


EVERY_SCENARIO: dict[str, dict[str, Any]] = {
    "class": {},
    "task": {"scenario": "task"},
    "online": {"online": 10},
    "blurry": {"arrangement": "blurry"},
    "blurry-online": {"arrangement": "blurry", "online": 10},
    "blurrier": {"arrangement": "blurry", "blur_rate": 0.3},
    "blurry-all": {"arrangement": "blurry", "disjoint_rate": 0.0},
    "si-blurry": {"arrangement": "si-blurry"},
    "gaussian": {"arrangement": "gaussian"},
    "gaussian-wide": {"arrangement": "gaussian", "gaussian_width": 3.0},
    "repetition": {"arrangement": "repetition", "repeat_rate": 0.5},
    "repetition-often": {"arrangement": "repetition", "repeat_rate": 0.9},
    "long-tail": {"imbalance": 0.1},
    "long-tail-ordered": {"imbalance": 0.1, "long_tail": "ordered"},
    "shots": {"shots": 2},
    "noise": {"label_noise": 0.4},
    "noise-pair": {"label_noise": 0.4, "noise": "pair"},
    "blurry-noise": {"arrangement": "blurry", "label_noise": 0.4},
    "gaussian-long-tail": {"arrangement": "gaussian", "imbalance": 0.5},
    "rotations": {"scenario": "domain", "domains": "rotations"},
    "permutations": {"scenario": "domain", "domains": "permutations"},
    "corruptions": {"scenario": "domain", "domains": "corruptions"},
    "all-at-once": {
        "arrangement": "repetition",
        "imbalance": 0.2,
        "shots": 3,
        "label_noise": 0.2,
        "online": 1,
    },
}
ARRANGEMENTS = ["disjoint", "blurry", "si-blurry", "gaussian", "repetition"]


@pytest.mark.parametrize("name", EVERY_SCENARIO)
def test_a_stream_keeps_its_contract_in_every_scenario(name: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(48, 8, 8, 3), dtype=np.uint8)
    labels = np.tile(np.arange(4), 12)
    file = tmp_path / "four.npz"
    np.savez(file, train_x=images[:40], train_y=labels[:40], test_x=images[40:], test_y=labels[40:])
    make = partial(streams.get("npz"), **{"file": str(file), "tasks": "2", **EVERY_SCENARIO[name]})
    check_stream(make, Places(tmp_path, tmp_path / "cache"))


def test_every_option_changes_the_digest_and_the_same_seed_repeats_it() -> None:
    digests = [cut_with(**{"tasks": "2", **options}).digest for options in EVERY_SCENARIO.values()]
    assert len(set(digests)) == len(EVERY_SCENARIO)
    assert digests == [cut_with(**{"tasks": "2", **options}).digest for options in EVERY_SCENARIO.values()]


@pytest.mark.parametrize("name", ["blurry", "si-blurry", "gaussian", "repetition", "permutations", "noise"])
def test_another_seed_draws_another_stream(name: str) -> None:
    assert cut_with(**EVERY_SCENARIO[name]).digest != cut_with(seed=1, **EVERY_SCENARIO[name]).digest


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_every_training_image_comes_exactly_once(arrangement: str) -> None:
    stream = cut_with(arrangement=arrangement, order="1993")
    assert sorted(training_rows(stream)) == list(range(200))
    assert sorted(int(row) for task in stream.tasks for row in task.test.rows) == list(range(200, 250))


@pytest.mark.parametrize("arrangement", ["blurry", "si-blurry", "gaussian"])
def test_a_flow_without_boundaries_numbers_its_classes_as_they_come(arrangement: str) -> None:
    stream = cut_with(arrangement=arrangement, order="1993")
    assert (stream.has_boundaries, stream.is_ordered) == (False, True)
    met: list[int] = []
    for task in stream.tasks:
        before = len(met)
        met += [label for label in dict.fromkeys(task.train.labels.tolist()) if label not in met]
        assert task.new_classes == met[before:]
    assert met == list(range(10))


@pytest.mark.parametrize("arrangement", ["disjoint", "repetition"])
def test_tasks_with_boundaries_leave_the_order_of_images_to_the_loop(arrangement: str) -> None:
    stream = cut_with(arrangement=arrangement)
    assert (stream.has_boundaries, stream.is_ordered) == (True, False)


def test_online_and_task_streams_say_so() -> None:
    assert cut_with().micro_batch == 0
    assert cut_with(online=7).micro_batch == 7
    assert cut_with(scenario="task").scenario == "task"


def test_blurry_shares_are_those_computed_by_hand() -> None:
    # six classes of 20 in three tasks: half of each task's two classes are disjoint; of each of the three
    # blurry ones a fifth leaves, two images to each of the two other tasks
    stream = cut_with(collection(6), tasks="3", arrangement="blurry", disjoint_rate=0.5, blur_rate=0.2)
    table = counts(stream)
    columns = sorted(tuple(column) for column in table.T.tolist())
    assert columns == sorted(
        [(20, 0, 0), (0, 20, 0), (0, 0, 20), (16, 2, 2), (2, 16, 2), (2, 2, 16)],
    )
    assert table.sum(1).tolist() == [40, 40, 40]
    # all blurry classes are met in the first task, with its own disjoint one; later ones bring theirs
    assert [len(task.new_classes) for task in stream.tasks] == [4, 1, 1]
    assert [len(task.test) for task in stream.tasks] == [20, 5, 5]


def test_a_task_may_bring_no_class_that_is_new() -> None:
    stream = cut_with(arrangement="blurry", disjoint_rate=0.0, blur_rate=0.5)
    assert [task.new_classes for task in stream.tasks] == [list(range(10)), [], [], [], []]
    assert [len(task.test) for task in stream.tasks] == [50, 0, 0, 0, 0]


@pytest.mark.parametrize(("disjoint_rate", "num_disjoint"), [(0.0, 0), (0.3, 3), (0.5, 5), (1.0, 10)])
@pytest.mark.parametrize("tasks", ["5", "3", "B4-Inc3"])
def test_the_share_of_disjoint_classes_is_kept_whatever_the_sizes(
    disjoint_rate: float, num_disjoint: int, tasks: str
) -> None:
    stream = cut_with(tasks=tasks, arrangement="blurry", disjoint_rate=disjoint_rate, blur_rate=0.5)
    assert ((counts(stream) > 0).sum(0) == 1).sum() == num_disjoint


def test_si_blurry_tasks_are_uneven_but_never_empty() -> None:
    sizes = set()
    for seed in range(20):
        stream = cut_with(seed=seed, arrangement="si-blurry", disjoint_rate=0.5, blur_rate=0.25)
        table = counts(stream)
        assert table.sum(1).min() > 0
        assert (
            (table > 0).sum(0) == 1
        ).sum() >= 5  # the disjoint half, and classes whose strays stay at home
        assert table.max(0).min() >= 15  # a blurry class keeps three quarters of its 20 images together
        sizes.add(tuple(table.sum(1).tolist()))
    assert len(sizes) == 20


def test_si_blurry_without_blur_is_disjoint_with_uneven_tasks() -> None:
    table = counts(cut_with(arrangement="si-blurry", blur_rate=0.0))
    assert ((table > 0).sum(0) == 1).all()
    assert len(set(table.sum(1).tolist())) > 1


def test_gaussian_peaks_follow_the_class_order_in_equal_segments() -> None:
    source = collection(per_class=200)
    stream = cut_with(source, arrangement="gaussian", order="1993", gaussian_width=1.0)
    assert [len(task.train) for task in stream.tasks] == [400] * 5
    own = source.train.labels[training_rows(stream)]
    place = np.array([np.flatnonzero(own == number).mean() for number in range(10)])
    assert np.argsort(place).tolist() == np.random.RandomState(1993).permutation(10).tolist()
    # a middle class has the standard deviation of one class's share of the flow, 200 images
    middle = np.flatnonzero(own == np.argsort(place)[5])
    assert middle.std() == pytest.approx(200, rel=0.2)


def test_a_very_narrow_gaussian_is_one_class_after_the_other() -> None:
    stream = cut_with(arrangement="gaussian", order="1993", gaussian_width=0.01)
    assert stream.class_order == np.random.RandomState(1993).permutation(10).tolist()
    labels = np.concatenate([task.train.labels for task in stream.tasks])
    assert labels.tolist() == np.repeat(np.arange(10), 20).tolist()


def test_classes_that_always_come_back_are_dealt_out_evenly() -> None:
    stream = cut_with(arrangement="repetition", repeat_rate=1.0)
    # 20 images over the 5, 4, 3, 2, 1 tasks from a class's first one on; the first get what is left over
    by_hand = [[4, 0, 0, 0, 0], [4, 5, 0, 0, 0], [4, 5, 7, 0, 0], [4, 5, 7, 10, 0], [4, 5, 6, 10, 20]]
    assert counts(stream).tolist() == np.repeat(by_hand, 2, axis=1).tolist()
    assert [task.new_classes for task in stream.tasks] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    for task in stream.tasks:
        assert task.classes == list(range(2 * task.index + 2))
        assert sorted(set(task.test.labels.tolist())) == task.new_classes


def test_classes_come_back_at_the_rate_asked_for() -> None:
    assert training_rows(cut_with(arrangement="repetition", repeat_rate=0.0)) == training_rows(cut_with())
    stream = cut_with(collection(100), tasks="10", arrangement="repetition", repeat_rate=0.3)
    returns = sum(len(task.classes) - len(task.new_classes) for task in stream.tasks)
    # ten classes may come back in nine tasks, ten in eight, ...: 450 chances; four standard deviations are 39
    assert returns == pytest.approx(0.3 * 450, abs=39)


def test_long_tail_has_exactly_the_counts_of_its_formula() -> None:
    source = collection(5, per_class=100)
    by_hand = [100, 32, 10, 3, 1]  # 100 * 0.01 ** (c / 4)
    ordered = cut_with(source, order="1993", imbalance=0.01, long_tail="ordered")
    assert counts(ordered).sum(0).tolist() == by_hand
    shuffled = counts(cut_with(source, imbalance=0.01, long_tail="shuffled")).sum(0).tolist()
    assert sorted(shuffled, reverse=True) == by_hand
    assert shuffled != by_hand
    assert counts(cut_with(source, imbalance=0.001, long_tail="ordered")).sum(0).min() == 1


def test_few_shots_leave_the_first_task_whole() -> None:
    assert counts(cut_with(shots=3)).sum(0).tolist() == [20, 20] + [3] * 8
    assert counts(cut_with(shots=100)).sum(0).tolist() == [20] * 10


@pytest.mark.parametrize("options", [{"imbalance": 0.1}, {"shots": 2}, {"label_noise": 0.5}])
def test_held_out_images_are_the_same_whatever_thins_or_spoils_the_training_part(
    options: dict[str, Any],
) -> None:
    plain, other = cut_with(validation_rate=0.2), cut_with(validation_rate=0.2, **options)
    for mine, theirs in zip(plain.tasks, other.tasks, strict=True):
        for one, two in ((mine.validation, theirs.validation), (mine.test, theirs.test)):
            assert np.array_equal(one.rows, two.rows)
            assert np.array_equal(one.labels, two.labels)
        assert set(theirs.train.rows.tolist()) <= set(mine.train.rows.tolist())


def test_noise_replaces_exactly_its_share_by_classes_of_the_same_task() -> None:
    clean, noisy = cut_with(), cut_with(label_noise=0.25)
    for task, spoilt in zip(clean.tasks, noisy.tasks, strict=True):
        assert np.array_equal(task.train.rows, spoilt.train.rows)
        wrong = task.train.labels != spoilt.train.labels
        assert np.bincount(task.train.labels[wrong])[task.classes].tolist() == [5, 5]  # of 20 each
        assert set(spoilt.train.labels.tolist()) == set(task.classes)


def test_pair_noise_gives_the_next_class_and_symmetric_noise_all_others() -> None:
    clean = cut_with(tasks="2")
    pair, symmetric = (cut_with(tasks="2", label_noise=0.6, noise=noise) for noise in ("pair", "symmetric"))
    for task, next_one, any_other in zip(clean.tasks, pair.tasks, symmetric.tasks, strict=True):
        wrong = task.train.labels != next_one.train.labels
        first = task.classes[0]
        expected = first + (task.train.labels - first + 1) % 5
        assert wrong.sum() == 60
        assert np.array_equal(next_one.train.labels[wrong], expected[wrong])
        pairs = {(int(a), int(b)) for a, b in zip(task.train.labels, any_other.train.labels, strict=True)}
        assert pairs == {(a, b) for a in task.classes for b in task.classes}


def domain_images(stream: TaskStream, index: int, part: str) -> NDArray[np.uint8]:
    samples = getattr(stream.tasks[index], part)
    images: NDArray[np.uint8] = samples.images[samples.rows]
    return images


@pytest.mark.parametrize("kind", ["rotations", "permutations", "corruptions"])
def test_made_domains_hold_every_image_under_the_same_labels(kind: str) -> None:
    source = collection()
    stream = cut_with(
        source,
        tasks="4",
        order="1993",
        scenario="domain",
        domains=kind,
        validation_rate=0.1,
        test_per_class=3,
    )
    plain = cut_with(source, tasks="1", order="1993", validation_rate=0.1, test_per_class=3).tasks[0]
    assert stream.class_order == np.random.RandomState(1993).permutation(10).tolist()
    assert len(stream.domain_names) == len(stream.tasks) == 4
    assert [task.new_classes for task in stream.tasks] == [list(range(10)), [], [], []]
    for task in stream.tasks:
        assert task.classes == list(range(10))
        for name in ("train", "validation", "test"):
            assert np.array_equal(getattr(task, name).labels, getattr(plain, name).labels)
            original = getattr(plain, name).images[getattr(plain, name).rows]
            is_same = np.array_equal(domain_images(stream, task.index, name), original)
            assert is_same == (task.index == 0)
    rows = [row for task in stream.tasks for part in (task.train, task.test) for row in part.rows]
    assert len(rows) == len(set(rows))


def test_a_quarter_turn_turns_every_image_to_the_left() -> None:
    stream = cut_with(tasks="4", scenario="domain", domains="rotations")
    assert stream.domain_names == ["rotation 0", "rotation 45", "rotation 90", "rotation 135"]
    for part in ("train", "test"):
        turned = np.rot90(domain_images(stream, 0, part), axes=(1, 2))
        assert np.array_equal(domain_images(stream, 2, part), turned)


def test_a_permutation_is_one_for_all_images_and_keeps_colours_together() -> None:
    stream = cut_with(tasks="3", scenario="domain", domains="permutations")
    before, after = (domain_images(stream, index, "train").reshape(-1, SIDE**2, 3) for index in (0, 1))
    order = [np.flatnonzero((before[0] == pixel).all(1)).item() for pixel in after[0]]
    assert sorted(order) == list(range(SIDE**2))
    assert np.array_equal(before[:, order], after)


def test_corruptions_leave_uint8_images_of_the_same_size() -> None:
    stream = cut_with(tasks=str(len(CORRUPTIONS)), scenario="domain", domains="corruptions")
    assert stream.domain_names == list(CORRUPTIONS)
    clean = domain_images(stream, 0, "test").astype(float)
    for index in range(1, len(CORRUPTIONS)):
        changed = domain_images(stream, index, "test")
        assert changed.dtype == np.uint8
        assert 2 < np.abs(changed - clean).mean() < 128, stream.domain_names[index]


def test_each_corruption_does_what_its_name_says() -> None:
    half = np.full((2, 8, 8, 3), 100, dtype=np.uint8)
    half[:, :, 4:] = 200

    def corrupted(name: str) -> NDArray[np.float64]:
        return CORRUPTIONS[name](half, random=np.random.default_rng(0)).astype(np.float64)

    assert np.unique(corrupted("brightness")).tolist() == [177, 255]  # 100 + 0.3 * 255, and white
    assert np.unique(corrupted("contrast")).tolist() == [132, 168]  # 150 -+ 0.35 * 50, a half rounded to even
    assert np.array_equal(corrupted("pixelate"), half)  # the edge lies between two blocks of two pixels
    for name in ("blur", "motion-blur"):  # smooth across the edge, nothing changes along it
        row = corrupted(name)[0, 0, :, 0]
        assert (np.diff(row) >= 0).all()
        assert 100 < row[3] < row[4] < 200
        assert (corrupted(name) == corrupted(name)[:, :1]).all()
    assert (np.diff(corrupted("fog")[0, :, 0, 0]) < 0).all()
    assert set(np.unique(corrupted("impulse-noise")).tolist()) <= {0, 100, 200, 255}
    noisy = corrupted("gaussian-noise")
    assert noisy[:, :, :4].std() == pytest.approx(0.12 * 255, rel=0.2)
    shot = corrupted("shot-noise")
    assert shot[:, :, :4].std() == pytest.approx(255 * np.sqrt(100 / 255 / 40), rel=0.2)


def test_a_collections_own_domains_are_its_tasks_in_their_order() -> None:
    stream = cut_with(with_domains(collection()), scenario="domain", train_per_class=4)
    assert stream.domain_names == ["drawn", "painted"]
    drawn, painted = stream.tasks
    assert (drawn.new_classes, painted.new_classes) == (list(range(10)), [])
    assert drawn.train.rows.max() < 100 <= painted.train.rows.min()
    assert drawn.test.rows.max() < 225 <= painted.test.rows.min()
    assert counts(stream).tolist() == [[4] * 10, [4] * 10]  # a limit counts for each domain


def test_a_class_that_comes_with_a_later_domain_is_tested_from_there_on() -> None:
    source = with_domains(collection())
    is_late = (source.train.labels == 3) & (source.train.rows < 100)
    late = replace(source, train=source.train.select(~is_late))
    drawn, painted = cut_with(late, scenario="domain").tasks
    assert (drawn.new_classes, painted.new_classes) == (list(range(9)), [9])
    assert 9 not in drawn.test.labels
    assert 9 in painted.test.labels


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"domains": "rotation", "scenario": "domain"}, "did you mean 'rotations' or"),
        ({"domains": "rotations"}, "write stream.scenario=domain as well"),
        ({"scenario": "domain"}, "make some with stream.domains (rotations, permutations, corruptions)"),
        ({"scenario": "domain", "domains": "rotations", "arrangement": "blurry"}, "(allowed: disjoint)"),
        ({"scenario": "domain", "domains": "corruptions", "tasks": "11"}, "(allowed: 1 to 10)"),
        ({"scenario": "domain", "domains": "rotations", "tasks": "0"}, "(allowed: a number from 1 on)"),
        ({"scenario": "domain", "domains": "rotations", "tasks": "B5-Inc1"}, "is no number of rotations"),
        (
            {"scenario": "domain", "domains": "rotations", "tasks": "1000000000"},
            "take 11176 GiB (allowed: 16); lower stream.train_per_class",
        ),
        ({"scenario": "task", "arrangement": "blurry"}, "has none (allowed: disjoint, repetition)"),
        ({"shots": 5, "arrangement": "gaussian"}, "stream.shots: few-shot needs tasks with boundaries"),
        ({"label_noise": 0.1, "tasks": "10"}, "task 1 has one class only"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ProtocolError) as refusal:
        cut_with(**options)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_domain_without_images_is_refused() -> None:
    source = with_domains(collection())
    empty = replace(source, domain_names=["drawn", "painted", "sketched"])
    with pytest.raises(ProtocolError, match="the domain 'sketched' has no training image"):
        cut_with(empty, scenario="domain")
