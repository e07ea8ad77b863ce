"""Check that a stream keeps its contract: disjoint parts, labels in stream order, no hidden chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clbench.data.checked_source import checked_source
from clbench.data.tasks import Places, Source, Task, TaskStream
from clbench.options import refuse_odd_class
from clbench.outside.mistakes import explained
from clbench.seeds import Seeds
from clbench.streams import Stream
from clbench.testing.promises import Told, nobody

NUM_COMPARED = 16  # images looked at in two loads


def check_stream(make: Callable[..., Stream], places: Places, *, told: Told = nobody) -> None:
    """Load a stream and cut it in several ways; AssertionError or PluginError says what was broken.

    ``make`` is called with options such as ``order="random"``: the stream's class, or
    ``functools.partial(MyStream, path=...)``. ``told`` hears of each promise that is kept.
    """
    refuse_odd_class(type(make()))
    told("it is a dataclass, whose options can be set and whose methods can be called")
    with explained(make()):
        _check(make, places, told)


def _check(make: Callable[..., Stream], places: Places, told: Told) -> None:
    source = checked_source(make(), make().load(places))
    _check_source(source)
    told("load() returns a Source: one array of images, and rows and labels of both parts")
    _check_same(source, make().load(places))
    told("a second load gives the same")
    stream = make().build("checked", places, Seeds(0))
    _check_tasks(stream)
    told("no image is in two parts or two tasks, and every class is trained on and tested")
    _check_labels(stream, source, make())
    told("labels are places in the class order, with the names that belong to them")
    _check_tasks(make(validation_rate=0.5).build("checked", places, Seeds(0)))
    told("a validation part can be held out")
    again = make().build("checked", places, Seeds(0))
    assert again.digest == stream.digest, "the same seed cuts other tasks"
    told("the same seed cuts the same tasks")
    shuffled = [make(tasks="1", order="random").build("checked", places, Seeds(seed)) for seed in range(6)]
    orders = {tuple(cut.class_order) for cut in shuffled}
    assert len(orders) > 1, "order='random' gives one class order whatever the seed"
    _check_labels(shuffled[0], source, make())
    told("another seed gives another class order")


def _check_source(source: Source) -> None:
    images = source.train.images
    num_classes = len(source.class_names)
    for name, part in (("training", source.train), ("test", source.test)):
        assert len(part), f"there is no {name} image"
        for values in (part.rows, part.labels):
            assert values.dtype == np.int64, f"{name} rows or labels are {values.dtype}, not int64"
        worst = part.labels.min() if part.labels.min() < 0 else part.labels.max()
        assert 0 <= worst < num_classes, (
            f"a {name} label is {worst}; there are names of {num_classes} classes"
        )
    if source.domain is not None:
        assert source.domain.shape == (len(images),), "the source does not name a domain for each image"
        assert source.domain.min() >= 0, "a domain is negative"
        assert source.domain.max() < len(source.domain_names), "a domain has no name"
    if source.tasks is not None:
        listed = sorted(number for classes in source.tasks for number in classes)
        assert set(listed) == set(range(num_classes)), "the tasks of the source do not cover its classes"


def _check_same(source: Source, again: Source) -> None:
    for mine, theirs in ((source.train, again.train), (source.test, again.test)):
        assert np.array_equal(mine.labels, theirs.labels), "a second load gives other labels"
        some = np.linspace(0, len(mine) - 1, NUM_COMPARED).astype(int)
        same = np.array_equal(mine.images[mine.rows[some]], theirs.images[theirs.rows[some]])
        assert same, "a second load gives other images"


def _check_tasks(stream: TaskStream) -> None:
    seen: set[int] = set()
    rows: list[int] = []
    for index, task in enumerate(stream.tasks):
        assert task.index == index, f"task {index} says that it is task {task.index}"
        new = [number for number in task.classes if number not in seen]
        assert task.new_classes == new, f"task {index}: new classes are {new}, not {task.new_classes}"
        start = len(seen)
        assert new == list(range(start, start + len(new))), (
            f"task {index}: new classes are not numbered in order"
        )
        if stream.is_ordered:
            known = np.maximum.accumulate(np.append(start, task.train.labels[:-1] + 1))
            assert (task.train.labels <= known).all(), f"task {index}: classes not numbered as they are met"
        seen.update(new)
        found = set(task.train.labels.tolist())
        assert found == set(task.classes), f"task {index}: train labels {found}, classes {task.classes}"
        _check_held_out(task, seen if stream.scenario == "domain" else set(new), stream.scenario)
        rows += [int(row) for part in (task.train, task.validation, task.test) for row in part.rows]
    assert len(seen) == len(stream.class_names) == len(stream.class_order), "a class is in no task"
    assert len(set(stream.class_order)) == len(seen), "the class order names a class twice"
    assert len(rows) == len(set(rows)), "an image is in two parts, or in two tasks"


def _check_held_out(task: Task, tested: set[int], scenario: str) -> None:
    """Expect a task to test each of its new classes, and a domain to test classes known by then."""
    found = set(task.test.labels.tolist())
    if scenario == "domain":
        assert found, f"task {task.index}: no test image"
        assert found <= tested, f"task {task.index}: test labels {found}, classes so far {tested}"
    else:
        assert found == tested, f"task {task.index}: test labels {found}, new classes {tested}"
    assert set(task.validation.labels.tolist()) <= tested, f"task {task.index}: a foreign label"


def _check_labels(stream: TaskStream, source: Source, options: Stream) -> None:
    """Expect a label to be the place, in the class order, of the image's label in the source."""
    for place, number in enumerate(stream.class_order):
        assert stream.class_names[place] == source.class_names[number], f"class {place} has another's name"
    if options.domains:
        return  # the images are copies, which the source does not hold
    whole = np.full(len(source.train.images), -1)
    for part in (source.train, source.test):
        whole[part.rows] = part.labels
    order = np.array(stream.class_order)
    for task in stream.tasks:
        true = [task.validation, task.test] + [task.train] * (options.label_noise == 0)
        for part in true:
            assert np.array_equal(order[part.labels], whole[part.rows]), f"task {task.index}: wrong labels"
