"""Say what the pixels of a picture or an array mean: one rule for each kind, whatever it is read from.

``docs/how-to/pixels.md`` tells the rules to users. In short: a value of 16 bits counts by its upper 8; a
float is a share of white; what is transparent is seen on white, because most of what has transparent parts is
drawn for a white page, and because a colour that nobody is shown must not be learnt; a picture is turned as
its EXIF says; of several pictures in a file the first is read. What cannot be read faithfully is refused by
name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clbench.errors import UserError
from clbench.outside.foreign import DAMAGE

RULES = 1  # changes with a rule: what was decoded under another is kept only where no rule has touched it
MOST_PIXELS = 178_956_970  # width x height of a picture: at twice its warning Pillow, too, suspects a bomb
WHITE = 255
ROUNDING = 0.001  # by which floats may lie beyond black and white, as they do after a resize
PLAIN = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
# Pillow opens their 16 bits as 32: these formats have no more, and the values reach 65535.
SIXTEEN_BITS_AT_MOST = frozenset({"PNG", "PPM"})
ORIENTATION, PHOTOMETRIC, DEPTH = 0x0112, 0x0106, 0x0102  # tags of EXIF and TIFF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
GREY_STEPS = {
    "L;2": 85,
    "L;4": 17,
}  # by which Pillow scales a PNG's grey of 2 and 4 bits, not its transparency


class PixelError(UserError, ValueError):
    """A picture or an array that cannot be read faithfully; the text says what is read."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a picture of any of Pillow's modes as upright RGB of 8 bits; PixelError names what is refused.

    To be called before the picture is loaded: its file's layout is known only until then.
    """
    check_dimensions(image.height, image.width)
    raw = _raw_mode(image)
    image.load()
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in SIXTEEN_BITS_AT_MOST):
        rgb = _from_16_bits(image)
    elif image.mode == "I":
        raise PixelError("mode I: whole numbers of 32 bits have no agreed white; save it with 8 or 16 bits")
    elif image.mode == "F":
        rgb = _from_floats(image)
    elif image.has_transparency_data:
        rgb = _on_white(image, raw)
    elif image.mode in PLAIN:
        rgb = image.convert("RGB")
    else:
        raise PixelError(f"mode {image.mode} is not known here; save it as RGB")
    turn = TURNS.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def is_touched(image: Image.Image) -> bool:
    """Whether the rules make other pixels of a picture than Pillow's conversion to RGB does."""
    return image.mode not in PLAIN or image.has_transparency_data or _orientation(image) in TURNS


def traits(image: Image.Image) -> list[str]:
    """Return by which of the rules a picture was read by ``to_rgb``, in the words of a run's header."""
    found = {
        "grey of 16 bits (the upper 8)": image.mode in SIXTEEN_BITS or image.mode == "I",
        "of floats (1 is white)": image.mode == "F",
        "with alpha or a transparent colour (on white)": image.has_transparency_data,
        "turned (EXIF)": _orientation(image) in TURNS,
        "of several pictures (the first)": _has_several(image),
    }
    return [words for words, is_so in found.items() if is_so]


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the height and width of a picture that is turned as its EXIF says."""
    if image.height != image.width and image.format == "TIFF":
        image.load()  # Pillow turns a TIFF itself, some of its versions only now
    if image.height != image.width and _orientation(image) >= 5:
        return image.width, image.height
    return image.height, image.width


def check_dimensions(height: int, width: int) -> None:
    """Raise PixelError where there is nothing, or where it would take more memory than any photograph."""
    if not height * width:
        raise PixelError(f"{width} x {height} pixels show nothing")
    if height * width > MOST_PIXELS:
        raise PixelError(f"{width} x {height} pixels; at most {MOST_PIXELS:,} are read")


@dataclass(frozen=True)
class ArrayRule:
    """How the numbers of arrays become bytes."""

    to_bytes: Callable[[NDArray[np.generic]], NDArray[np.uint8]]

    def __call__(self, images: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Return images (N, H, W) or (N, H, W, C), C of 1 to 4 (2, 4: alpha last), as (N, H, W, 3)."""
        grey_levels = self.to_bytes(images)
        if grey_levels.ndim == 3:
            grey_levels = grey_levels[..., None]
        if grey_levels.shape[-1] in (2, 4):
            grey_levels = over_white(grey_levels)
        return grey_levels if grey_levels.shape[-1] == 3 else np.repeat(grey_levels, 3, axis=-1)


def array_rule(dtype: np.dtype[np.generic], low: float = 0, high: float = WHITE) -> ArrayRule:
    """Return the rule for arrays of a type whose values lie between two; PixelError where there is none.

    ``low`` and ``high``, of all images together, are asked of floats and of 16 bits.
    """
    if dtype == np.uint8:
        return ArrayRule(lambda images: images.astype(np.uint8, copy=False))
    if dtype == np.bool_:
        return ArrayRule(lambda images: images.astype(np.uint8) * np.uint8(WHITE))
    if dtype.kind == "u" and dtype.itemsize == 2:
        if high <= WHITE:
            raise PixelError(f"its values reach {high:g} of 65535, which is black; give such values as uint8")
        return ArrayRule(upper_byte)
    if dtype.kind == "f":
        if are_shares(low, high):
            return ArrayRule(shares_of_white)
        if low >= -ROUNDING and 2 <= high <= WHITE + ROUNDING:  # a little above 1, it is an overshoot
            return ArrayRule(lambda images: np.rint(images).astype(np.uint8))
        raise PixelError(f"its values go from {low:g} to {high:g}; floats are read in [0, 1] and in [0, 255]")
    raise PixelError(f"{dtype} is not read (allowed: uint8, uint16, bool, floats)")


def are_shares(low: float, high: float) -> bool:
    """Tell whether floats lie between black, 0, and white, 1, but for rounding; NaN does not."""
    return -ROUNDING <= low <= high <= 1 + ROUNDING


def upper_byte(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return the upper 8 of 16 bits: 65535 is white; it is what Pillow makes of colours of 16 bits."""
    upper: NDArray[np.uint8] = (values.astype(np.uint16) >> 8).astype(np.uint8)
    return upper


def shares_of_white(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return floats in [0, 1] as the nearest grey level."""
    levels: NDArray[np.uint8] = np.rint(values.astype(np.float64) * WHITE).astype(np.uint8)
    return levels


def over_white(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (..., C) with alpha last, not multiplied into the colours, on white: (..., C - 1)."""
    colour, alpha = levels[..., :-1].astype(np.uint32), levels[..., -1:].astype(np.uint32)
    mixed = (colour * alpha + WHITE * (WHITE - alpha) + WHITE // 2) // WHITE
    seen: NDArray[np.uint8] = mixed.astype(np.uint8)
    return seen


def _raw_mode(image: Image.Image) -> str:
    """Return how the values lie in the picture's file; empty where it is loaded or of no file."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _orientation(image: Image.Image) -> int:
    """Return EXIF's number of how the camera was held; 1, as it lies, where none can be read."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except DAMAGE:  # many programs write EXIF badly, and the pixels are sound
        return 1
    return orientation if isinstance(orientation, int) else 1


def _has_several(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except DAMAGE:  # there is no second one, or none that can be read
        return False
    return True


def _is_inverted(image: Image.Image) -> bool:
    """Whether 0 is white: Pillow turns this round itself only where values have at most 8 bits."""
    return image.format == "TIFF" and vars(image)["tag_v2"].get(PHOTOMETRIC) == 0


def _has_12_bits(image: Image.Image) -> bool:
    return image.format == "TIFF" and vars(image)["tag_v2"].get(DEPTH) == (12,)


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    levels = upper_byte(values << 4 if _has_12_bits(image) else values)
    if _is_inverted(image):
        levels = WHITE - levels
    if "transparency" in image.info:
        levels = np.where(values == image.info["transparency"], np.uint8(WHITE), levels)
    return Image.fromarray(levels).convert("RGB")


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not are_shares(low, high):
        raise PixelError(f"mode F: its values go from {low:g} to {high:g}; floats are read in [0, 1]")
    return Image.fromarray(shares_of_white(1 - values if _is_inverted(image) else values)).convert("RGB")


def _on_white(image: Image.Image, raw: str) -> Image.Image:
    """Return a picture with an alpha channel or a transparent colour, as it is seen on a white page."""
    transparent = image.info.get("transparency")
    is_wide = isinstance(transparent, tuple) and (raw.startswith("RGB;16") or max(transparent) > WHITE)
    if image.mode == "RGB" and is_wide:
        raise PixelError(
            "mode RGB of 16 bits with a transparent colour, which 8 bits cannot tell from others"
        )
    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa", "P", "1", "L", "RGB"):
        raise PixelError(f"mode {image.mode} with a transparent colour is not known here; save it as RGBA")
    if isinstance(transparent, int) and image.mode in ("1", "L"):
        transparent = WHITE if image.mode == "1" and transparent else transparent * GREY_STEPS.get(raw, 1)
        image.info["transparency"] = transparent
    straight = image.convert("LA") if image.mode == "La" else image
    levels = np.asarray(straight.convert("RGBA"))
    return Image.fromarray(over_white(levels))
