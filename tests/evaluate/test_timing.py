"""A ratio of times is the median of interleaved pairs, without the first."""

from __future__ import annotations

import pytest

from clbench.evaluate import timing


def test_ratio_is_the_median_of_pairs_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    takes = {"subject": iter([100.0, 2.0, 9.0, 4.0]), "reference": iter([1.0, 1.0, 1.0, 1.0])}

    def call(name: str) -> None:
        calls.append(name)
        clock[0] += next(takes[name])

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    ratio = timing.ratio_of_times(lambda: call("subject"), lambda: call("reference"), rounds=3)
    assert ratio == 4  # of 2, 9 and 4; the first pair, 100 to 1, warms up
    assert calls == ["reference", "subject", "subject", "reference"] * 2
