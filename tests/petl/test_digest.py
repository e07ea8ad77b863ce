"""A digest follows the values, by whatever door they were changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clbench.petl.digest import StateDigest

CHANGES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda tensor: tensor.add_(1),
    "through .data": lambda tensor: tensor.data.add_(1),
    "through numpy": lambda tensor: tensor.numpy().__iadd__(1),
    "one element": lambda tensor: tensor.data.view(-1)[2:3].add_(1),
    "by new data": lambda tensor: setattr(tensor, "data", tensor.data + 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int64, torch.uint8])
@pytest.mark.parametrize("way", CHANGES)
def test_a_change_gives_another_digest_and_the_same_values_the_same(way: str, dtype: torch.dtype) -> None:
    state = {"a": torch.arange(6).reshape(2, 3).to(dtype), "b": torch.ones(2)}
    before = {name: tensor.clone() for name, tensor in state.items()}
    digest = StateDigest()
    first = digest.of("module", state)
    assert digest.of("module", state) == first
    CHANGES[way](state["a"])
    assert digest.of("module", state) != first
    assert digest.of("module", before) == first == StateDigest().of("module", before)


def test_what_it_is_about_and_the_names_count() -> None:
    state = {"a": torch.ones(2)}
    first = StateDigest().of("module", state)
    assert StateDigest().of("another", state) != first
    assert StateDigest().of("module", {"b": torch.ones(2)}) != first


def test_scalars_truths_and_nothing_at_all_have_digests() -> None:
    odd = {"scalar": torch.tensor(1.5), "mask": torch.tensor([True, False]), "none": torch.zeros(0)}
    digest = StateDigest()
    first = digest.of("", odd)
    odd["mask"].data.logical_not_()
    odd["mask"].data[0] = True
    assert digest.of("", odd) != first
    assert StateDigest().of("", {}) != first
