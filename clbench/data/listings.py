"""List image files with their classes and parts, and read what is listed."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clbench.data.cache import Decoding, cached
from clbench.data.decode import common_size, decode_files, touched
from clbench.data.pixels import RULES
from clbench.data.tasks import Source
from clbench.errors import UserError
from clbench.outside.foreign import DAMAGE, check_matlab, first_line, read_text
from clbench.registry import did_you_mean

TEST_RATE = 0.2
Labelled = list[tuple[Path, int]]


class FolderError(UserError):
    """A folder that does not hold what its layout needs."""


class ChoiceError(UserError, ValueError):
    """An option that names what a collection does not have."""


@dataclass(frozen=True)
class Listing:
    """Image files with their class numbers."""

    train: Labelled
    test: Labelled
    class_names: list[str]
    tasks: list[list[int]] | None = None  # classes of each task, where the collection defines the tasks
    domain: Sequence[int] = ()  # of each training file, then of each test file, where that is known
    domain_names: Sequence[str] = ()  # of the domains 0, 1, ...
    notes: Sequence[str] = ()  # lines for the run's header: what lies there and is not read


def read_listing(listing: Listing, name: str, *, cache_dir: Path, stored_size: int) -> Source:
    """Return the listed images, decoded in the cache."""
    files = [file for file, _ in (*listing.train, *listing.test)]
    _check_labels(listing)
    counts: Counter[str] = Counter()

    def decode() -> Decoding:
        size = common_size(files, stored_size)
        return Decoding(
            height=size[0],
            width=size[1],
            train_labels=np.array([label for _, label in listing.train]),
            test_labels=np.array([label for _, label in listing.test]),
            class_names=listing.class_names,
            chunks=decode_files(files, size, counts),
            rules=RULES,
            notes=lambda: _read_by_rules(counts, len(files)),
        )

    fingerprint = f"files {stored_size} {_digest(listing)}"
    source = cached(
        name,
        cache_dir=cache_dir,
        fingerprint=fingerprint,
        decode=decode,
        rules=RULES,
        touched=lambda: touched(files),
    )
    domain = np.array(listing.domain, dtype=np.int64) if listing.domain_names else None
    return replace(
        source,
        tasks=listing.tasks,
        domain=domain,
        domain_names=listing.domain_names,
        notes=(*listing.notes, *source.notes),
    )


def numbered_names(labels: Iterable[int], known: Mapping[int, str] | None = None) -> list[str]:
    """Return the name of each class from 0 to the largest label; its number where none is known.

    FolderError where a label is larger than any collection with so many images has.
    """
    found = list(labels)
    largest = max(found, default=-1)
    if largest >= len(found):
        raise FolderError(f"a label is {largest}; {len(found)} images allow at most {len(found)} classes")
    return [(known or {}).get(label, str(label)) for label in range(largest + 1)]


def split_classes(files: Labelled, names: list[str]) -> Listing:
    """Take a fifth of each class, at least one image, as the test part; the draw is always the same."""
    labels = np.array([label for _, label in files])
    is_test = np.zeros(len(files), dtype=np.bool_)
    for label, name in enumerate(names):
        places = np.flatnonzero(labels == label)
        if len(places) < 2:
            raise FolderError(f"class {name!r} has one image; two are needed to train and test on it")
        count = max(1, round(TEST_RATE * len(places)))
        is_test[np.random.default_rng(label).permutation(places)[:count]] = True
    return Listing(
        [file for file, test in zip(files, is_test, strict=True) if not test],
        [file for file, test in zip(files, is_test, strict=True) if test],
        names,
    )


def join_domains(parts: Mapping[str, Listing], class_names: list[str]) -> Listing:
    """Return the union of domains, named by the keys, whose class numbers are those of ``class_names``."""
    listings = parts.values()
    return Listing(
        [file for part in listings for file in part.train],
        [file for part in listings for file in part.test],
        class_names,
        domain=[
            *(domain for domain, part in enumerate(listings) for _ in part.train),
            *(domain for domain, part in enumerate(listings) for _ in part.test),
        ],
        domain_names=list(parts),
    )


def join_tasks(parts: Mapping[str, Listing]) -> Listing:
    """Return the union of collections, named by the keys, each of them a task with classes of its own."""
    train: Labelled = []
    test: Labelled = []
    names: list[str] = []
    tasks = []
    for key, part in parts.items():
        start = len(names)
        train += [(file, start + label) for file, label in part.train]
        test += [(file, start + label) for file, label in part.test]
        names += [f"{key}: {name}" for name in part.class_names]
        tasks.append(list(range(start, len(names))))
    return Listing(train, test, names, tasks=tasks)


def read_rows(file: Path) -> list[list[str]]:
    """Return the words of each line of a text file that is no blank line; FolderError if it is none."""
    try:
        lines = read_text(file).splitlines()
    except (OSError, ValueError) as error:
        raise FolderError(f"cannot read the list {file}: {first_line(error)}") from error
    return [line.split() for line in lines if line.strip()]


def read_matlab(file: Path) -> dict[str, NDArray[np.void]]:
    """Return the arrays of a file of MATLAB's; FolderError if it is none."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        check_matlab(file)
        arrays: dict[str, NDArray[np.void]] = loadmat(file, squeeze_me=True)
    except (*DAMAGE, MatReadError) as error:
        raise FolderError(f"cannot read {file} as a file of MATLAB's: {first_line(error)}") from error
    return arrays


def chosen(option: str, value: str, allowed: Sequence[str]) -> list[str]:
    """Return the names in a comma-separated option, in its order; ChoiceError for others than the allowed."""
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in allowed or names.count(name) > 1:
            problem = "twice" if name in allowed else f"unknown{did_you_mean(name, allowed)}"
            raise ChoiceError(f"stream.{option}: {name!r} is {problem} (allowed: {', '.join(allowed)})")
    return names


def _digest(listing: Listing) -> str:
    total = hashlib.sha256(repr(listing.class_names).encode())
    for part in (listing.train, listing.test):
        total.update(b"part")
        for file, label in part:
            try:
                status = file.stat()
            except OSError as error:
                raise FolderError(f"the image {file} is listed but not there") from error
            marks = f" {label} {status.st_size} {status.st_mtime_ns}\n"
            total.update(os.fsencode(file) + marks.encode())  # a name need not be UTF-8
    return total.hexdigest()


def _check_labels(listing: Listing) -> None:
    """Expect a known class for each file, before anything is made of the numbers."""
    num_classes = len(listing.class_names)
    for file, label in (*listing.train, *listing.test):
        if not 0 <= label < num_classes:
            raise FolderError(
                f"{file} has the label {label}; {num_classes} classes allow 0 to {num_classes - 1}"
            )


def _read_by_rules(counts: Counter[str], num_images: int) -> list[str]:
    told = ", ".join(f"{count} {trait}" for trait, count in sorted(counts.items()))
    return [f"of {num_images} images: {told}"] if told else []
