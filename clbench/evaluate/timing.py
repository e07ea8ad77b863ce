"""Compare the times of two things on a machine that others use, too: in turns, and by the median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

WARM_UP = 1  # rounds that are not counted


def ratio_of_times(subject: Callable[[], object], reference: Callable[[], object], *, rounds: int) -> float:
    """Return the time of ``subject`` by that of ``reference``, the median of so many interleaved pairs.

    The two take turns at going first. Each has to wait for an accelerator itself, for instance by reading a
    result.
    """
    quotients = []
    for number in range(WARM_UP + rounds):
        pair = (subject, reference) if number % 2 else (reference, subject)
        seconds = {call: _seconds(call) for call in pair}
        if number >= WARM_UP:
            quotients.append(seconds[subject] / seconds[reference])
    return statistics.median(quotients)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
