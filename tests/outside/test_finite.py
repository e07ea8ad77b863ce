"""What is not finite is found in any tensor, and named in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clbench.errors import UserError
from clbench.outside.finite import NotFiniteError, is_finite, refuse_any_not_finite, refuse_not_finite

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_is_found_in_every_float(dtype: torch.dtype) -> None:
    fine = torch.ones(2, 3).to(dtype)
    broken = torch.tensor([[1.0, 1.0, 1.0], [1.0, torch.nan, 1.0]]).to(dtype)
    assert is_finite(fine)
    assert not is_finite(broken)
    with pytest.raises(
        NotFiniteError, match=r"^file: w holds nan or inf in 1 of 6 places, the first nan at \[1, 1\]$"
    ):
        refuse_not_finite(broken, "w", "file")


def test_numbers_whose_sum_overflows_are_finite_all_the_same() -> None:
    assert is_finite(torch.full((3,), 3e38))
    assert is_finite(torch.full((3,), 6e4, dtype=torch.float16))
    assert is_finite(np.full(3, 1e308))
    assert not is_finite(torch.tensor([torch.inf, -torch.inf]))


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
def test_arrays_are_looked_at_piece_by_piece(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clbench.outside.finite.PIECE", 8)
    array = np.ones((5, 2, 2), kind)
    assert is_finite(array)
    array[4, 1, 0] = np.inf
    with pytest.raises(
        NotFiniteError,
        match=r"^stream: images holds nan or inf in 1 of 20 places, the first inf at \[4, 1, 0\]$",
    ):
        refuse_not_finite(array, "images", "stream")


@pytest.mark.parametrize(
    "numbers",
    [
        torch.arange(3),
        torch.zeros(0),
        torch.tensor(True),
        torch.empty(2, device="meta"),
        np.zeros(0),
        np.array("text"),
        np.arange(3, dtype=np.uint8),
    ],
)
def test_what_has_no_floats_passes(numbers: torch.Tensor) -> None:
    refuse_not_finite(numbers, "any", "any")
    assert is_finite(numbers)


@pytest.mark.parametrize("scalar", [torch.tensor(torch.nan), np.array(np.nan)])
def test_a_single_number_has_no_place(scalar: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"^here: x holds nan or inf in 1 of 1 places, the first nan$"):
        refuse_not_finite(scalar, "x", "here")


def test_the_first_broken_tensor_of_several_is_named() -> None:
    tensors = {"a": torch.ones(1), "b": torch.tensor([torch.inf]), "c": torch.tensor([torch.nan])}
    with pytest.raises(NotFiniteError, match=r"^file: b holds"):
        refuse_any_not_finite(tensors, "file")
