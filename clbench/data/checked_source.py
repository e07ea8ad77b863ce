"""Look at what a stream's ``load`` returned, and say in one line what is wrong with it."""

from __future__ import annotations

import numpy as np

from clbench.data.samples import Samples
from clbench.data.tasks import Source
from clbench.outside.mistakes import PluginError


def checked_source(stream: object, source: object) -> Source:
    """Return the collection if it is one: two parts of one uint8 image array, with whole rows and labels.

    Whether the labels fit the names is seen when it is cut into tasks.
    """
    what = f"{type(stream).__name__}.load()"
    if not isinstance(source, Source):
        kind = "None; a return is missing" if source is None else f"a {type(source).__name__}"
        raise PluginError(f"{what} returned {kind}; return a Source(train=..., test=..., class_names=...)")
    for name in ("train", "test"):
        part = getattr(source, name)
        if not isinstance(part, Samples):
            raise PluginError(
                f"{what}: {name} is a {type(part).__name__}; make it Samples(images, rows, labels)"
            )
        for told in (_images(part), _numbers("rows", part.rows), _numbers("labels", part.labels)):
            if told:
                raise PluginError(f"{what}: {name} {told}")
        if len(part.rows) != len(part.labels):
            raise PluginError(f"{what}: {name} has {len(part.rows)} rows and {len(part.labels)} labels")
        if len(part.rows) and not 0 <= part.rows.min() <= part.rows.max() < len(part.images):
            worst = part.rows.min() if part.rows.min() < 0 else part.rows.max()
            raise PluginError(f"{what}: {name} has a row {worst}; there are {len(part.images)} images")
    if source.train.images is not source.test.images:
        raise PluginError(
            f"{what}: train and test hold two image arrays; one is to be shared, and cut by rows"
        )
    return source


def _images(part: Samples) -> str:
    images = part.images
    if not isinstance(images, np.ndarray):
        return f"images are a {type(images).__name__}, not a numpy array"
    if images.dtype != np.uint8:
        return f"images are {images.dtype}, not uint8 (0 to 255)"
    if images.ndim != 4 or images.shape[3] != 3:
        return f"images are of shape {images.shape}, not (N, H, W, 3)"
    return ""


def _numbers(name: str, values: object) -> str:
    if not isinstance(values, np.ndarray):
        return f"{name} are a {type(values).__name__}, not a numpy array of int64"
    if values.dtype.kind not in "iu" or values.ndim != 1:
        return f"{name} are {values.dtype} of shape {values.shape}, not int64 of shape (N,)"
    return ""
