"""Say who hears of the promises of a contract, one by one, as each is found to be kept."""

from __future__ import annotations

from collections.abc import Callable

Told = Callable[[str], object]


def nobody(promise: str) -> None:
    """Hear of a promise, and leave it at that."""
