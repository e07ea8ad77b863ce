"""Say how many tokens each block removes.

D. Bolya et al., "Token Merging" (ToMe), ICLR 2023, arXiv 2210.09461: a constant r; r with an inflection i in
[-1, 1], which lets the number change evenly over the depth around the same mean (-1 begins with 2 r and ends
with none, 1 is the reverse); or a list.
"""

from __future__ import annotations

from clbench.compress.parts.places import CompressError


def even(removed: int, inflection: float, depth: int) -> list[int]:
    """Return the number for each of ``depth`` blocks: a straight line from r (1 - i) on."""
    first = int(removed * (1 - inflection))
    last = 2 * removed - first
    step = (last - first) / (depth - 1) if depth > 1 else 0
    return [int(first + step * block) for block in range(depth)]


def listed(text: str, depth: int) -> list[int]:
    """Read ``16/14/13``: the number of each of the first blocks; the others remove none."""
    words = text.split("/")
    if not all(word.strip().isdecimal() for word in words) or len(words) > depth:
        raise CompressError(
            f"blocks: {text!r} is not allowed: write up to {depth} whole numbers, one a block, as in 16/14/13"
        )
    return [*map(int, words), *[0] * (depth - len(words))]
