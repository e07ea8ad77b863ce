"""Draw what has too many tasks or classes to be seen one by one: in bins of equal width, and say so."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clbench.report.groups import Matrix

MOST_CELLS = 125  # along a side of a heatmap that can still be told apart


def width_of_bins(number: int, most: int = MOST_CELLS) -> int:
    """Return how many tasks or classes share a bin, so that there are at most so many bins."""
    return max(1, -(-number // most))


def binned(matrix: Matrix, width: int) -> Matrix:
    """Return the means over blocks of ``width`` rows and columns; of what is not known (NaN) none is made."""
    if width == 1:
        return matrix
    known = ~np.isnan(matrix)
    sums, num = (_summed(_summed(each, width).T, width).T for each in (np.where(known, matrix, 0.0), known))
    means: Matrix = np.divide(sums, num, out=np.full(sums.shape, np.nan), where=num > 0)
    return means


def binned_shares(shares: Matrix, width: int) -> Matrix:
    """Return shares (C, C) of rows that fall into columns as shares of a bin's rows that fall into a bin."""
    known = np.logical_not(np.isnan(shares).any(axis=1))[:, None]  # (C, 1)
    sums = _summed(_summed(np.where(known, shares, 0.0), width).T, width).T
    num = _summed(known, width)
    means: Matrix = np.divide(sums, num, out=np.full(sums.shape, np.nan), where=num > 0)
    return means


def binned_columns(values: Matrix, width: int) -> Matrix:
    """Return the means over ``width`` columns side by side, of those that are known in a row."""
    if width == 1:
        return values
    known = ~np.isnan(values)
    sums, num = (_summed(each.T, width).T for each in (np.where(known, values, 0.0), known))
    means: Matrix = np.divide(sums, num, out=np.full(sums.shape, np.nan), where=num > 0)
    return means


def bin_ticks(
    number: int, width: int, most: int = 10, first: int = 1
) -> tuple[NDArray[np.float64], list[str]]:
    """Return at most so many places on an axis of bins, at round numbers, and the tasks or classes there.

    ``first`` is what is counted from: tasks from 1, classes from 0.
    """
    step = next(int(each) for each in _round_numbers() if number / each <= most)
    told = np.arange(number) + first
    told = told[told % step == 0]
    return (told - first + 0.5) / width - 0.5, [str(each) for each in told]


def bins_note(width: int, noun: str) -> str:
    """Say that cells are bins, as an end of a line; nothing where they are not."""
    return "" if width == 1 else f"; a cell is the mean over {width} x {width} {noun}"


def _summed(values: NDArray[np.generic], width: int) -> Matrix:
    """Add up each ``width`` rows; the last bin may have fewer."""
    sums: Matrix = np.add.reduceat(values.astype(np.float64), np.arange(0, len(values), width), axis=0)
    return sums


def _round_numbers() -> NDArray[np.int64]:
    return np.multiply.outer(10 ** np.arange(12), [1, 2, 5]).ravel()
