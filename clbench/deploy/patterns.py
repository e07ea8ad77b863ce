"""Draw pictures with structure, to compare two ways of computing the same prediction on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KINDS = 4  # stripes, rings, tiles and noise take turns


def patterns(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return so many pictures (n, H, W, 3): stripes, rings, tiles and noise in many colours, always the same.

    Among them are fine and coarse ones, soft and hard edges, pure black and pure white.
    """
    random = np.random.default_rng(0)
    down, across = np.mgrid[0:height, 0:width] / max(height, width)
    pictures = np.empty((count, height, width, 3), np.uint8)
    for index in range(count):
        waves = random.uniform(1, 12, size=3)
        angle, phase = random.uniform(0, 2 * np.pi, size=2)
        along = np.cos(angle) * across + np.sin(angle) * down
        beside = np.cos(angle) * down - np.sin(angle) * across
        if index % KINDS == 0:
            level = along
        elif index % KINDS == 1:
            level = np.hypot(across - random.uniform(), down - random.uniform())
        elif index % KINDS == 2:
            level = np.floor(4 * along) / 4 + np.floor(4 * beside) / 8
        else:
            level = random.uniform(0, 1, size=(height, width))
        contrast = random.uniform(100, 400)  # above 255 much of it is black or white
        grey = 127.5 + contrast / 2 * np.sin(2 * np.pi * level[..., None] * waves + phase)
        pictures[index] = grey.clip(0, 255)
    return pictures
