"""Wide matrices are drawn in bins: worked examples."""

from __future__ import annotations

import numpy as np

from clbench.report.pictures.binning import (
    bin_ticks,
    binned,
    binned_columns,
    binned_shares,
    bins_note,
    width_of_bins,
)

NAN = np.nan


def test_bins_are_as_wide_as_they_have_to_be():
    assert [width_of_bins(number, 100) for number in (1, 100, 101, 1000, 1001)] == [1, 1, 2, 10, 11]


def test_a_bin_is_the_mean_of_what_is_known_in_it():
    matrix = np.array([[1.0, NAN, NAN], [2.0, 3.0, NAN], [4.0, 6.0, 8.0]])
    np.testing.assert_array_equal(binned(matrix, 2), [[2.0, NAN], [5.0, 8.0]])
    np.testing.assert_array_equal(binned_columns(matrix, 2), [[1.0, NAN], [2.5, NAN], [5.0, 8.0]])
    assert binned(matrix, 1) is matrix


def test_shares_of_a_bin_of_classes_still_add_up_to_one():
    shares = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75], [NAN, NAN, NAN]])
    np.testing.assert_array_equal(binned_shares(shares, 2), [[0.625, 0.375], [NAN, NAN]])


def test_ticks_stand_at_round_numbers_inside_their_bins():
    places, names = bin_ticks(1000, 8)
    assert names == [str(100 * number) for number in range(1, 11)]
    assert [round(place) for place in places] == [(100 * number - 1) // 8 for number in range(1, 11)]
    assert bin_ticks(3, 1)[1] == ["1", "2", "3"]
    assert bin_ticks(40, 1, first=0)[1] == ["0", "5", "10", "15", "20", "25", "30", "35"]


def test_a_picture_says_what_a_cell_is():
    assert bins_note(1, "tasks") == ""
    assert bins_note(8, "tasks") == "; a cell is the mean over 8 x 8 tasks"
