"""Read one of Avalanche's classic benchmarks: its images as one array, its tasks and its class order.

V. Lomonaco et al., "Avalanche: an end-to-end library for continual learning", CVPR workshops 2021,
arXiv:2104.00405.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from clbench.avalanche.quietly import import_avalanche
from clbench.data.cache import Decoding, cached
from clbench.data.decode import CHUNK, LARGEST_NATIVE, fit
from clbench.data.downloads import TIMEOUT, patience
from clbench.data.tasks import DataNotFoundError, Places, Source
from clbench.errors import UserError
from clbench.outside.foreign import DAMAGE
from clbench.registry import did_you_mean

if TYPE_CHECKING:
    from avalanche.benchmarks import CLExperience, NCScenario

DEFAULT_EXPERIENCES = 5  # where a benchmark names no number itself
EXAMPLES = "SplitMNIST, SplitFMNIST, SplitCIFAR10, SplitCIFAR100, SplitTinyImageNet"
UNREADABLE: tuple[type[Exception], ...] = (*DAMAGE, ImportError)


class ClassicError(UserError, ValueError):
    """A benchmark of Avalanche that is not there, or that is not class-incremental."""


def read_classic(
    benchmark: str, places: Places, *, num_experiences: int, seed: int, stored_size: int
) -> Source:
    """Return the images of a benchmark such as ``SplitMNIST``, and its tasks."""
    root = places.data_dir or places.cache_dir / "downloads"
    made = _make(benchmark, root, num_experiences, seed)
    train, test = list(made.train_stream), list(made.test_stream)
    tasks = _tasks(benchmark, made)
    classes = sorted(number for task in tasks for number in task)
    labels = [np.searchsorted(classes, _targets(part)).astype(np.int64) for part in (train, test)]
    own_tasks = np.split(np.searchsorted(classes, np.concatenate(tasks)), np.cumsum([*map(len, tasks)])[:-1])

    def decode() -> Decoding:
        side = stored_size or min(LARGEST_NATIVE, *_picture(train[0].dataset[0][0]).size)
        return Decoding(
            height=side,
            width=side,
            train_labels=labels[0],
            test_labels=labels[1],
            class_names=[str(number) for number in classes],
            chunks=_chunks([*train, *test], side),
            tasks=[task.tolist() for task in own_tasks],
        )

    digest = hashlib.sha256(labels[0].tobytes() + labels[1].tobytes()).hexdigest()
    fingerprint = f"avalanche {version('avalanche-lib')} {benchmark} {root} {tasks} {stored_size} {digest}"
    try:
        return cached(
            f"avalanche-{benchmark}", cache_dir=places.cache_dir, fingerprint=fingerprint, decode=decode
        )
    except UserError:
        raise
    except DAMAGE as error:
        raise DataNotFoundError(
            f"avalanche:{benchmark}: its data in {root} are incomplete or damaged; replace them, or remove"
            f" them to have them downloaded again ({_first_line(error)})"
        ) from error


def _make(benchmark: str, root: Path, num_experiences: int, seed: int) -> NCScenario:
    """Call the benchmark's function with those of our arguments that it takes."""
    import_avalanche()
    from avalanche.benchmarks import NCScenario, classic

    constructors = {name: make for name, make in vars(classic).items() if inspect.isfunction(make)}
    if benchmark not in constructors:
        near = did_you_mean(benchmark, constructors)
        raise ClassicError(f"avalanche has no classic benchmark {benchmark!r}{near} (such as {EXAMPLES})")
    taken = inspect.signature(constructors[benchmark]).parameters
    offered: dict[str, int | Path | None] = {"seed": seed, "train_transform": None, "eval_transform": None}
    offered |= {name: root for name in taken if name.startswith("dataset_root")}
    if "n_experiences" in taken and (
        num_experiences or taken["n_experiences"].default is inspect.Parameter.empty
    ):
        offered["n_experiences"] = num_experiences or DEFAULT_EXPERIENCES
    arguments = {name: value for name, value in offered.items() if name in taken}
    try:
        # avalanche seeds torch's global generator, and prints
        with patience(TIMEOUT), torch.random.fork_rng(devices=[]), redirect_stdout(sys.stderr):
            made = constructors[benchmark](**arguments)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataNotFoundError(
            f"avalanche:{benchmark}: its data are not in {root} and could not be downloaded"
            f" ({_first_line(error)}); name their folder with --data-dir, or try --stream split-digits"
        ) from error
    except UNREADABLE as error:
        raise ClassicError(f"avalanche:{benchmark} cannot be made: {_first_line(error)}") from error
    if not isinstance(made, NCScenario):
        raise ClassicError(f"avalanche:{benchmark} is not class-incremental, as {EXAMPLES} are")
    return made


def _tasks(benchmark: str, made: NCScenario) -> list[list[int]]:
    """Return the classes of each experience in the benchmark's class order."""
    present = [part.dataset.targets.uniques for part in made.train_stream]
    if sum(map(len, present)) > len(set().union(*present)):
        raise ClassicError(f"avalanche:{benchmark} is not class-incremental, as {EXAMPLES} are")
    return [[number for number in made.classes_order_original_ids if number in part] for part in present]


def _targets(experiences: Sequence[CLExperience]) -> NDArray[np.int64]:
    return np.concatenate([np.array(list(part.dataset.targets), dtype=np.int64) for part in experiences])


def _chunks(experiences: Sequence[CLExperience], side: int) -> Iterator[NDArray[np.uint8]]:
    for part in experiences:
        for start in range(0, len(part.dataset), CHUNK):
            places = range(start, min(start + CHUNK, len(part.dataset)))
            yield np.stack([fit(_picture(part.dataset[place][0]), (side, side)) for place in places])


def _picture(image: Image.Image | Tensor) -> Image.Image:
    """Return an image of a benchmark, which may be a float tensor in [0, 1] such as MNIST's, as a picture."""
    picture: Image.Image = to_pil_image(image) if isinstance(image, Tensor) else image
    return picture


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
