"""Corrupt images in ten ways, of medium strength.

After the kinds of D. Hendrycks, T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations", ICLR 2019, arXiv 1903.12261. The corruptions and their strengths are ours: they need no
image library, suit any size, and their results are not to be compared with ImageNet-C's or CIFAR-C's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # (N, H, W, 3)
Pixels = NDArray[np.float32]  # the same in [0, 1]
Corrupt = Callable[[Pixels, np.random.Generator], Pixels]

NOISE = 0.12  # standard deviation, of white = 1
PHOTONS = 40  # that a white pixel catches
IMPULSE_RATE = 0.08  # pixels that turn black or white
BLUR_SHARE = 1 / 32  # of the image's side: the standard deviation of the blur, at least half a pixel
MOTION_SHARE = 1 / 8  # of the width: how far the camera moved
BLOCK_SHARE = 1 / 14  # of the side: a block of equal pixels, at least 2
LIGHT = 0.3  # added
CONTRAST = 0.35  # kept of a pixel's distance from the image's mean
FOG = 0.55  # white mixed in where it is thickest, at the top


def gaussian_noise(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Add noise that no pixel shares with another."""
    return pixels + random.standard_normal(pixels.shape, dtype=np.float32) * np.float32(NOISE)


def shot_noise(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Count photons: bright pixels are noisier."""
    return (random.poisson(pixels * PHOTONS) / PHOTONS).astype(np.float32)


def impulse_noise(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Turn some pixels black or white, all their colours at once."""
    drawn = random.random((*pixels.shape[:3], 1), dtype=np.float32)
    black_or_white = (drawn < IMPULSE_RATE / 2).astype(np.float32)
    return np.where(drawn < IMPULSE_RATE, black_or_white, pixels)


def blur(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Smooth with a Gaussian in both directions."""
    height, width = pixels.shape[1:3]
    return _smooth(_smooth(pixels, 1, _bell(height)), 2, _bell(width))


def motion_blur(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Smooth along the rows, as if the camera had moved."""
    length = max(3, round(MOTION_SHARE * pixels.shape[2]))
    return _smooth(pixels, 2, np.full(length + 1 - length % 2, 1.0))


def contrast(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Bring every pixel nearer to its image's mean."""
    mean: Pixels = pixels.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (pixels - mean) * np.float32(CONTRAST)


def brightness(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Add light everywhere."""
    return pixels + LIGHT


def pixelate(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Give each block of pixels its mean."""
    for axis in (1, 2):
        side = pixels.shape[axis]
        starts = np.arange(0, side, max(2, round(BLOCK_SHARE * side)))
        sizes = np.diff(np.append(starts, side))
        shape = [-1 if each == axis else 1 for each in range(4)]
        means = np.add.reduceat(pixels, starts, axis=axis) / sizes.reshape(shape)
        pixels = np.repeat(means, sizes, axis=axis)
    return pixels


def fog(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Mix in white, the more the higher up."""
    thickness = np.linspace(FOG, FOG / 2, pixels.shape[1], dtype=np.float32)[None, :, None, None]
    return pixels * (1 - thickness) + thickness


def _bell(side: int) -> NDArray[np.float64]:
    deviation = max(0.5, BLUR_SHARE * side)
    reach = int(np.ceil(3 * deviation))
    return np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)


def _smooth(pixels: Pixels, axis: int, weights: NDArray[np.float64]) -> Pixels:
    """Replace each pixel by the weighted mean along an axis; the edge goes on outside the image."""
    reach, side = len(weights) // 2, pixels.shape[axis]
    padded = np.pad(pixels, [(reach, reach) if each == axis else (0, 0) for each in range(4)], mode="edge")
    total = np.zeros_like(pixels)
    for shift, weight in enumerate((weights / weights.sum()).tolist()):
        total += weight * padded.take(range(shift, shift + side), axis=axis)
    return total


def _clean(images: Images, random: np.random.Generator) -> Images:
    return images


def _on_bytes(corrupt: Corrupt) -> Callable[..., Images]:
    """Let a corruption of pixels in [0, 1] work on grey levels."""

    def corrupted(images: Images, random: np.random.Generator) -> Images:
        pixels = corrupt(images.astype(np.float32) / np.float32(255), random)
        grey_levels: Images = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
        return grey_levels

    return corrupted


CORRUPTIONS: dict[str, Callable[..., Images]] = {
    "clean": _clean,
    "gaussian-noise": _on_bytes(gaussian_noise),
    "shot-noise": _on_bytes(shot_noise),
    "impulse-noise": _on_bytes(impulse_noise),
    "blur": _on_bytes(blur),
    "motion-blur": _on_bytes(motion_blur),
    "contrast": _on_bytes(contrast),
    "brightness": _on_bytes(brightness),
    "pixelate": _on_bytes(pixelate),
    "fog": _on_bytes(fog),
}
