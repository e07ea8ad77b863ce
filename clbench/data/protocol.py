"""Cut a labelled collection into tasks: which images come when, in which task, and which are held out.

Limits are taken first, then the validation part, so that a limit counts both; then what thins out the
training part alone (long tail, few shots); then the labels are numbered as the classes are met.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clbench.data.orders import ProtocolError, class_order, cut_classes
from clbench.data.samples import Samples
from clbench.data.scenarios.arrangements import ARRANGEMENTS
from clbench.data.scenarios.combinations import check_options
from clbench.data.scenarios.domains import by_domain
from clbench.data.scenarios.label_noise import mislabel
from clbench.data.scenarios.long_tail import long_tail
from clbench.data.scenarios.made_domains import make_domains
from clbench.data.scenarios.options import ScenarioOptions
from clbench.data.shares import Parts, hold_out, limit
from clbench.data.tasks import Source, Task, TaskStream
from clbench.seeds import Seeds


def cut(options: ScenarioOptions, *, name: str, source: Source, seeds: Seeds) -> TaskStream:
    """Return the tasks that the options ask for; what is drawn for a class depends on no other option."""
    _check_labels(source)
    check_options(options)
    domain_names: Sequence[str] = ()
    if options.scenario == "domain":
        order = class_order(options.order, source.class_names, seeds)
        domain_names, parts = _domains(options, source, order, seeds)
    else:
        order, parts = _classes(options, source, seeds)
    parts = [_as_trained(options, part, index, order, seeds) for index, part in enumerate(parts)]
    arrangement = ARRANGEMENTS[options.arrangement]
    tasks, order = _numbered(parts, order, arrangement.is_ordered)
    return TaskStream(
        name=name,
        tasks=tasks,
        class_order=order,
        class_names=[source.class_names[number] for number in order],
        augment=options.augment or options.default_augment,
        scenario=options.scenario,
        has_boundaries=arrangement.has_boundaries,
        is_ordered=arrangement.is_ordered,
        micro_batch=options.online,
        domain_names=domain_names,
        notes=source.notes,
    )


def _classes(options: ScenarioOptions, source: Source, seeds: Seeds) -> tuple[list[int], list[Parts]]:
    """Return the class order and each task's parts; a class is tested in the task in which it is new."""
    classes = cut_classes(options.tasks, options.order, source, seeds)
    whole = _share(options, source.train, source.test, classes.order, seeds)
    arrange = ARRANGEMENTS[options.arrangement].arrange
    train = [whole.train.select(places) for places in arrange(whole.train.labels, classes, options, seeds)]
    is_new = np.ones(len(classes.order), dtype=np.bool_)
    parts = []
    for part in train:
        new = is_new & np.isin(np.arange(len(is_new)), part.labels)
        is_new &= ~new
        validation, test = (each.select(new[each.labels]) for each in (whole.validation, whole.test))
        parts.append(Parts(part, validation, test))
    return classes.order, parts


def _domains(
    options: ScenarioOptions, source: Source, order: list[int], seeds: Seeds
) -> tuple[list[str], list[Parts]]:
    """Return the names and the parts of the domains, made or the collection's own."""
    if options.domains:
        whole = _share(options, source.train, source.test, order, seeds)
        return make_domains(whole, options.domains, options.tasks, seeds)
    found = by_domain(source)
    parts = [
        _share(options, train, test, order, seeds, index) for index, (_, train, test) in enumerate(found)
    ]
    return [name for name, _, _ in found], parts


def _share(
    options: ScenarioOptions, train: Samples, test: Samples, order: list[int], seeds: Seeds, *position: int
) -> Parts:
    """Take the limits, hold out the validation part and cut the tail, of a collection or a domain."""
    train = limit(train, options.train_per_class, lambda c: seeds.numpy("limit-train", c, *position))
    test = limit(test, options.test_per_class, lambda c: seeds.numpy("limit-test", c, *position))
    rate = options.validation_rate
    train, validation = hold_out(train, rate, lambda c: seeds.numpy("validation", c, *position))
    if options.imbalance < 1:
        is_shuffled = options.long_tail == "shuffled"
        train = long_tail(train, order, options.imbalance, is_shuffled, seeds)
    return Parts(train, validation, test)


def _as_trained(options: ScenarioOptions, parts: Parts, index: int, order: list[int], seeds: Seeds) -> Parts:
    """Take few shots of a later task and spoil training labels.

    X. Tao et al., "Few-Shot Class-Incremental Learning", CVPR 2020, arXiv 2004.10956.
    """
    train = parts.train
    if index > 0:
        train = limit(train, options.shots, lambda c: seeds.numpy("shots", c))
    if options.label_noise > 0:
        is_pair = options.noise == "pair"
        train = mislabel(train, options.label_noise, is_pair=is_pair, order=order, task=index, seeds=seeds)
    return Parts(train, parts.validation, parts.test)


def _numbered(parts: list[Parts], order: list[int], is_ordered: bool) -> tuple[list[Task], list[int]]:
    """Number the classes as they are met; return the tasks, and the class behind each number.

    Classes that are new in one task keep the class order among themselves, but where the order of the
    images counts, they are numbered by their first image. A domain's held-out images of classes that no
    domain so far has trained on are left out.
    """
    rank = np.argsort(order)
    number = np.full(len(order), -1)
    met: list[int] = []
    tasks = []
    for index, part in enumerate(parts):
        present, first = np.unique(part.train.labels, return_index=True)
        place = first if is_ordered else rank[present]
        new = [int(c) for c in present[np.argsort(place)] if number[c] < 0]
        number[new] = np.arange(len(met), len(met) + len(new))
        new_classes = list(range(len(met), len(met) + len(new)))
        met += new
        held_out = [each.select(number[each.labels] >= 0) for each in (part.validation, part.test)]
        renumbered = [Samples(e.images, e.rows, number[e.labels]) for e in (part.train, *held_out)]
        tasks.append(Task(index, sorted(number[present].tolist()), new_classes, *renumbered))
    return tasks, met


def _check_labels(source: Source) -> None:
    """Expect labels in range, and images of every class in both parts."""
    num_classes = len(source.class_names)
    for part, labels in (("training", source.train.labels), ("test", source.test.labels)):
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            worst = labels.min() if labels.min() < 0 else labels.max()
            raise ProtocolError(
                f"a {part} label is {worst}; {num_classes} classes allow 0 to {num_classes - 1}"
            )
        missing = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
        if len(missing):
            first = source.class_names[missing[0]]
            raise ProtocolError(
                f"class {first!r} has no {part} image ({len(missing)} of {num_classes} classes have none)"
            )
