"""Compare groups of runs: intervals, paired tests over common seeds, ranks, and the Pareto front.

A group's runs differ in the seed alone. Two groups are compared on the seeds that both have, because a seed
fixes class order and split, which move all methods together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from clbench.report.groups import Group, partition

CONFIDENCE = 0.95
NAN = math.nan


@dataclass(frozen=True)
class Interval:
    """A mean over n runs, and where the mean of all runs lies with 95 % confidence; NaN for one run."""

    mean: float
    std: float  # of the sample
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedTest:
    """Whether two groups differ in a number, seed by seed; NaN where they share fewer than two seeds."""

    first: str
    second: str
    key: str
    difference: float  # mean of first - second over the common seeds
    low: float  # its interval
    high: float
    n: int  # common seeds
    p: float  # of Student's paired t-test, two-sided
    p_holm: float  # corrected for all pairs that were tested together

    @property
    def is_significant(self) -> bool:
        """Whether the difference stands at 5 % after the correction."""
        return self.p_holm < 1 - CONFIDENCE


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of some runs with its interval by Student's t."""
    from scipy import stats

    numbers = np.asarray(values, dtype=np.float64)
    n = len(numbers)
    mean = float(numbers.mean()) if n else NAN
    if n < 2:
        return Interval(mean, NAN, NAN, NAN, n)
    std = float(numbers.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / math.sqrt(n)
    return Interval(mean, std, mean - half, mean + half, n)


def paired_tests(groups: Sequence[Group], key: str) -> list[PairedTest]:
    """Test every pair of groups that met the same streams, with Holm's correction for all of them together.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics
    1979. Seeds on which either group does not know the number are left out.
    """
    pairs = [pair for rivals in partition(groups, "stream") for pair in combinations(rivals, 2)]
    found = [(first.label, second.label, *_difference(first, second, key)) for first, second in pairs]
    corrected = holm([p for *_, p in found])
    return [
        PairedTest(first, second, key, it.mean, it.low, it.high, it.n, p, p_holm)
        for (first, second, it, p), p_holm in zip(found, corrected, strict=True)
    ]


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values corrected for there being many; NaN stays, and is not counted."""
    corrected = [NAN] * len(ps)
    order = sorted((place for place, p in enumerate(ps) if not math.isnan(p)), key=lambda place: ps[place])
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


def pareto_front(groups: Sequence[Group], cost: str, quality: str = "accuracy") -> set[str]:
    """Return who is beaten by nobody: no other group is as cheap and as good, and better in one of the two.

    ``cost`` is a number of which less is better, ``quality`` one of which more is. Groups of which one of the
    two is unknown are on no front.
    """
    places = {group.label: (group.statistic(cost)[0], group.statistic(quality)[0]) for group in groups}
    known = {label: place for label, place in places.items() if not any(map(math.isnan, place))}
    return {
        label
        for label, (price, worth) in known.items()
        if not any(
            other_price <= price and other_worth >= worth and (other_price, other_worth) != (price, worth)
            for other_price, other_worth in known.values()
        )
    }


def mean_ranks(groups: Sequence[Group], key: str, *, higher_is_better: bool = True) -> dict[str, float]:
    """Return each group's rank in a number, 1 the best, averaged over streams and seeds that all know.

    Equal numbers share their ranks. Groups that met different streams are ranked among their own. A group
    that knows the number of no seed has no rank, NaN, and is in nobody's way.
    """
    from scipy import stats

    ranks = {group.label: NAN for group in groups}
    for all_rivals in partition(groups, "stream"):
        rivals = [group for group in all_rivals if not np.isnan(group.numbers(key)).all()]
        known = [
            {seed for seed, it in _by_seed(group, key).items() if not math.isnan(it)} for group in rivals
        ]
        seeds = sorted(set.intersection(*known)) if known else []
        if not seeds:
            continue
        table = np.array([[_by_seed(group, key)[seed] for seed in seeds] for group in rivals])
        sign = -1.0 if higher_is_better else 1.0
        means: NDArray[np.float64] = stats.rankdata(sign * table, axis=0).mean(axis=1)
        ranks |= {group.label: float(rank) for group, rank in zip(rivals, means, strict=True)}
    return ranks


def _difference(first: Group, second: Group, key: str) -> tuple[Interval, float]:
    """Return the differences' interval over common seeds, and the p-value of there being none."""
    one, other = _by_seed(first, key), _by_seed(second, key)
    differences = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    it = interval([value for value in differences if not math.isnan(value)])
    if it.n < 2:
        return it, NAN
    if it.std == 0:
        return it, 1.0 if it.mean == 0 else 0.0
    from scipy import stats

    return it, float(2 * stats.t.sf(abs(it.mean) / (it.std / math.sqrt(it.n)), it.n - 1))


def _by_seed(group: Group, key: str) -> dict[int, float]:
    return dict(zip(group.seeds, group.numbers(key), strict=True))
