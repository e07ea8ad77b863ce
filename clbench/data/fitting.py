"""Bring pictures, from wherever they come, to the size and the type that a stream stores images in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clbench.data.decode import fit

Images = NDArray[np.uint8]


def fitted(images: Images, size: tuple[int, int]) -> Images:
    """Return images (N, H, W, 3) at a height and width, resized as pictures in files are."""
    if images.shape[1:3] == size:
        return images
    resized = np.empty((len(images), *size, 3), np.uint8)
    for place, image in enumerate(images):
        resized[place] = fit(Image.fromarray(image), size)
    return resized
