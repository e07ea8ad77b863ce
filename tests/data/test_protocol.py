"""Cutting a collection into tasks: orders, sizes, what is held out, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clbench.data.cache import as_source
from clbench.data.orders import ProtocolError, class_order, task_sizes
from clbench.data.protocol import cut
from clbench.seeds import Seeds
from clbench.streams import Places, Source, Stream, TaskStream


def collection(num_classes: int = 10, per_class: int = 20, tasks: list[list[int]] | None = None) -> Source:
    """Return a collection with ``per_class`` training and five test images of each class, shuffled."""
    labels = np.tile(np.arange(num_classes), per_class + 5)
    images = np.arange(len(labels) * 12, dtype=np.uint8).reshape(-1, 2, 2, 3)
    names = [f"name {number}" for number in range(num_classes)]
    return as_source(images, labels, num_classes * per_class, names, tasks)


@dataclass
class Generated(Stream):
    """A stream that is cut from a given source and never loaded."""

    def load(self, places: Places) -> Source:
        """Nothing to load."""
        raise AssertionError("not called")


def cut_with(source: Source | None = None, seed: int = 0, **options: Any) -> TaskStream:
    chosen = {"tasks": "5", **options}
    return cut(Generated(**chosen), name="generated", source=source or collection(), seeds=Seeds(seed))


def names(num_classes: int) -> list[str]:
    return [f"name {number}" for number in range(num_classes)]


@pytest.mark.parametrize(
    ("order", "num_classes", "start"),
    [
        ("1993", 100, [68, 56, 78, 8, 23]),  # PyCIL
        ("1993", 200, [168, 136, 51, 9, 183]),
        ("lae-1", 100, [0, 1, 2, 3, 4]),
        ("lae-2", 100, [23, 8, 11, 7, 48]),
        ("lae-3", 100, [53, 37, 65, 51, 4]),
        ("LAE-2", 200, [131, 181, 22, 172, 144]),
        ("lae-3", 200, [33, 146, 79, 19, 23]),
        ("lae-2", 345, [177, 316, 160, 169, 292]),  # DomainNet: torch's permutation, not Python's shuffle
        ("lae-3", 345, [200, 107, 51, 15, 108]),
        ("natural", 100, [0, 1, 2, 3, 4]),
    ],
)
def test_class_orders_start_as_published(order: str, num_classes: int, start: list[int]) -> None:
    classes = class_order(order, names(num_classes), Seeds(0))
    assert classes[:5] == start
    assert sorted(classes) == list(range(num_classes))


def test_random_order_depends_on_the_seed_and_a_numbered_one_does_not() -> None:
    first, second = (class_order("random", names(100), Seeds(seed)) for seed in (0, 1))
    assert first != second
    assert first == class_order("random", names(100), Seeds(0))
    assert class_order("1993", names(100), Seeds(0)) == class_order("1993", names(100), Seeds(1))


@pytest.mark.parametrize(
    ("tasks", "num_classes", "sizes"),
    [
        ("10", 100, [10] * 10),
        ("tasks=10", 100, [10] * 10),
        ("10 tasks", 100, [10] * 10),
        ("1", 100, [100]),
        ("3", 10, [4, 3, 3]),
        ("B0-Inc10", 100, [10] * 10),
        ("b50-inc10", 100, [50, 10, 10, 10, 10, 10]),
        ("B50 Inc10", 100, [50, 10, 10, 10, 10, 10]),
        ("B0-Inc30", 100, [30, 30, 30, 10]),
        ("B10-Inc5", 10, [10]),
        ("2,4,1", 7, [2, 4, 1]),
        (" 1 , 1 ", 2, [1, 1]),
    ],
)
def test_protocol_spellings_give_the_sizes_of_the_field(
    tasks: str, num_classes: int, sizes: list[int]
) -> None:
    assert task_sizes(tasks, num_classes) == sizes


NAMES = ["ant", "bee", "cow", "3"]


@pytest.mark.parametrize(
    ("order", "classes"),
    [
        ("2,0,1,3", [2, 0, 1, 3]),
        ("cow, ant,3,bee", [2, 0, 3, 1]),  # 3 is a class's name here, and the others are names
        ("03,2,1,0", [3, 2, 1, 0]),
    ],
)
def test_an_order_lists_classes_by_number_or_by_name(order: str, classes: list[int], tmp_path: Path) -> None:
    assert class_order(order, NAMES, Seeds(0)) == classes
    (tmp_path / "order.txt").write_text("\n".join(order.split(",")) + "\n\n")
    assert class_order(str(tmp_path / "order.txt"), NAMES, Seeds(0)) == classes
    (tmp_path / "order").write_text("\n".join(order.split(",")))
    assert class_order(f"file:{tmp_path / 'order'}", NAMES, Seeds(0)) == classes


def test_names_that_are_numbers_come_before_numbers() -> None:
    by_alphabet = ["0", "1", "10", "2", "3", "4", "5", "6", "7", "8", "9"]
    order = "10,9,8,7,6,5,4,3,2,1,0"
    assert [by_alphabet[number] for number in class_order(order, by_alphabet, Seeds(0))] == order.split(",")


def test_listed_classes_and_sizes_are_cut_so() -> None:
    stream = cut_with(order="9,8,7,6,5,4,3,2,1,0", tasks="1,2,7")
    assert [len(task.classes) for task in stream.tasks] == [1, 2, 7]
    assert stream.class_names[:3] == ["name 9", "name 8", "name 7"]
    assert stream.tasks[1].classes == [1, 2]


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("0,1,2", "names 3 of 4 classes; '3' is missing"),
        ("0,1,2,2", "names the class '2' twice"),
        ("0,1,2,4", "there is no class '4' (allowed: names, or 0 to 3)"),
        ("ant,bee,cow,dog", "there is no class 'dog'"),
        ("ant,be,cow,3", "there is no class 'be'; did you mean 'bee'?"),
        ("file:/nowhere/order", "stream.order: cannot read /nowhere/order: no such file or directory"),
        ("nowhere.txt", "cannot read nowhere.txt"),
        ("lae-2", "lae-2 is an order of 100 (CIFAR-100), 200 (ImageNet-R) or 345 classes (DomainNet)"),
        ("lae-3", "and there are 4; try random, or a seed such as 1993"),
    ],
)
def test_an_order_that_does_not_fit_is_refused_in_one_line(order: str, said: str) -> None:
    with pytest.raises(ProtocolError) as refusal:
        class_order(order, NAMES, Seeds(0))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_two_classes_of_one_name_are_told_apart_by_number_only() -> None:
    assert class_order("2,1,0", ["ant", "ant", "bee"], Seeds(0)) == [2, 1, 0]
    with pytest.raises(ProtocolError, match="names 2 of 3 classes; 'one of two of the same name' is missing"):
        class_order("bee,ant", ["ant", "ant", "bee"], Seeds(0))


def test_lae_draws_nothing_from_torchs_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    class_order("lae-2", names(345), Seeds(0))
    assert torch.equal(torch.rand(1), expected)


PROPOSED = re.compile(r"try stream\.tasks=(\S+)$")


@pytest.mark.parametrize(
    "tasks", ["5", "0", "B9-Inc1", "B1-Inc0", "B3-Inc4", "2,4,1", "1,1", "1,1,1,1", "2,0,1"]
)
def test_tasks_that_do_not_fit_propose_what_would_work(tasks: str) -> None:
    with pytest.raises(ProtocolError) as refusal:
        task_sizes(tasks, 3)
    said = str(refusal.value)
    assert "\n" not in said
    proposed = PROPOSED.search(said)
    assert (proposed is None) == (tasks == "2,0,1")
    if proposed:
        assert sum(task_sizes(proposed[1], 3)) == 3


def test_tasks_hold_their_classes_numbered_in_stream_order() -> None:
    source = collection()
    stream = cut_with(source, order="1993", validation_rate=0.1)
    order = np.random.RandomState(1993).permutation(10).tolist()
    assert stream.class_order == order
    assert stream.class_names == [f"name {number}" for number in order]
    for index, task in enumerate(stream.tasks):
        assert task.classes == task.new_classes == [2 * index, 2 * index + 1]
        assert [len(task.train), len(task.validation), len(task.test)] == [36, 4, 10]
        for part in (task.train, task.validation, task.test):
            # image rows cycle through the classes, so that a row's class is its number modulo ten
            assert np.array_equal(part.rows % 10, np.array(order)[part.labels])


def test_parts_are_disjoint_and_lose_nothing() -> None:
    stream = cut_with(validation_rate=0.3)
    parts = [part for task in stream.tasks for part in (task.train, task.validation, task.test)]
    rows = np.concatenate([part.rows for part in parts])
    assert sorted(rows) == list(range(250))


def test_validation_takes_its_share_of_each_class_and_leaves_one_to_train_on() -> None:
    stream = cut_with(collection(per_class=3), validation_rate=0.9)
    for task in stream.tasks:
        assert np.bincount(task.train.labels)[task.classes].tolist() == [1, 1]
        assert np.bincount(task.validation.labels)[task.classes].tolist() == [2, 2]
    assert all(len(task.validation) == 0 for task in cut_with(validation_rate=0.0).tasks)


def test_the_same_images_are_held_out_under_every_class_order() -> None:
    def held_out(order: str) -> list[int]:
        return sorted(int(row) for task in cut_with(order=order).tasks for row in task.validation.rows)

    assert held_out("natural") == held_out("1993")


def test_limits_are_taken_before_the_validation_part() -> None:
    stream = cut_with(train_per_class=10, test_per_class=2, validation_rate=0.2)
    for task in stream.tasks:
        assert [len(task.train), len(task.validation), len(task.test)] == [16, 4, 4]
    unlimited = cut_with(train_per_class=1000)
    assert sum(len(task.train) + len(task.validation) for task in unlimited.tasks) == 200


def test_digest_tells_seeds_orders_and_splits_apart() -> None:
    digests = [
        cut_with().digest,
        cut_with(seed=1).digest,
        cut_with(order="1993").digest,
        cut_with(tasks="2").digest,
        cut_with(validation_rate=0.2).digest,
    ]
    assert len(set(digests)) == 5
    assert cut_with().digest == digests[0]


def test_stream_keeps_the_tasks_that_the_collection_defines() -> None:
    stream = cut_with(collection(4, tasks=[[3, 1], [0, 2]]), tasks="stream")
    assert stream.class_order == [3, 1, 0, 2]
    assert [task.classes for task in stream.tasks] == [[0, 1], [2, 3]]


def test_a_stream_has_its_own_augmentation_unless_one_is_named() -> None:
    assert cut_with().augment == "rrc-flip"
    assert cut_with(augment="crop").augment == "crop"


def with_label(label: int) -> Source:
    source = collection()
    source.train.labels[7] = label
    return source


def without_class(part: str) -> Source:
    source = collection()
    parts = {"train": source.train, "test": source.test}
    parts[part] = parts[part].select(parts[part].labels != 4)
    return Source(parts["train"], parts["test"], source.class_names)


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (
            collection,
            {"tasks": "11"},
            "10 classes cannot make 11 tasks (allowed: 1 to 10); try stream.tasks=10",
        ),
        (collection, {"tasks": "5,6"}, "5,6 add up to 11 classes, and there are 10; try stream.tasks=5,5"),
        (collection, {"tasks": "11,6"}, "add up to 17 classes, and there are 10; try stream.tasks=2"),
        (collection, {"tasks": "0"}, "10 classes cannot make 0 tasks"),
        (collection, {"tasks": "B11-Inc1"}, "does not fit 10 classes"),
        (collection, {"tasks": "B5-Inc0"}, "does not fit 10 classes"),
        (collection, {"tasks": "ten"}, "'ten' is no protocol (allowed: a number of tasks such as 10"),
        (collection, {"tasks": "stream"}, "defines no tasks; write a number of tasks instead, as in"),
        (lambda: collection(4, tasks=[[0, 1], [1, 2, 3]]), {"tasks": "stream"}, "in several"),
        (
            lambda: collection(2, tasks=[[0, 1]]),
            {"tasks": "stream", "order": "1993"},
            "needs a number of tasks",
        ),
        (collection, {"order": "natrual"}, "did you mean 'natural'?"),
        (collection, {"order": "-1"}, "allowed: natural, random, a seed below 2**32"),
        (collection, {"order": str(2**32)}, "a seed below 2**32"),
        (collection, {"augment": "rcc"}, "did you mean 'rrc'"),
        (lambda: with_label(10), {}, "a training label is 10; 10 classes allow 0 to 9"),
        (lambda: with_label(-1), {}, "a training label is -1"),
        (lambda: without_class("train"), {}, "class 'name 4' has no training image"),
        (lambda: without_class("test"), {}, "class 'name 4' has no test image"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(
    make: Callable[[], Source], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ProtocolError) as refusal:
        cut_with(make(), **options)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
