"""Show that each token is rounded to a grid of its own."""

from __future__ import annotations

import pytest
import torch

from clbench.quant.parts.per_token import AsymmetricPerToken, PerToken, SymmetricPerToken

LEAST = torch.tensor(1e-7)
KINDS = [SymmetricPerToken, AsymmetricPerToken]


def test_a_symmetric_grid_spans_the_largest_size() -> None:
    rounding = SymmetricPerToken(2, least=LEAST)
    tokens = torch.tensor([[-3.0, 1.0, 0.5], [0.3, 0.1, 0.0]])
    # s = 3 / 1.5 and 0.3 / 1.5; z = 2; the greatest code is 1 above it
    assert rounding.codes(tokens).tolist() == [[0, 2, 2], [3, 2, 2]]  # halves go to the even place
    torch.testing.assert_close(rounding(tokens), torch.tensor([[-4.0, 0, 0], [0.2, 0, 0]]))


def test_an_asymmetric_grid_spans_the_token_and_zero() -> None:
    rounding = AsymmetricPerToken(2, least=LEAST)
    tokens = torch.tensor([[-1.0, 2.0, 0.4], [3.0, 6.0, 1.5]])
    assert rounding.codes(tokens).tolist() == [[0, 3, 1], [2, 3, 1]]  # s = 1 and 2, z = 1 and 0
    torch.testing.assert_close(rounding(tokens), torch.tensor([[-1.0, 2, 0], [4, 6, 2]]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_does_not_depend_on_the_others(kind: type[PerToken]) -> None:
    rounding, tokens = kind(8, least=LEAST), torch.randn(2, 5, 16)
    tokens[1] *= 1000
    assert torch.equal(rounding(tokens)[0, 2], rounding(tokens[0, 2]))
    error = (rounding(tokens) - tokens).abs().amax(dim=-1)
    assert (error <= 0.0081 * tokens.abs().amax(dim=-1)).all()  # a step of 2 / 255 at most


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zeros_and_the_gradient_is_the_identity(kind: type[PerToken]) -> None:
    rounding = kind(8, least=LEAST)
    assert rounding(torch.zeros(3, 4)).count_nonzero() == 0
    tokens = torch.randn(3, 4, requires_grad=True)
    rounding(tokens).sum().backward()
    assert torch.equal(tokens.grad, torch.ones(3, 4))


def test_codes_alone_are_not_decoded() -> None:
    with pytest.raises(TypeError, match="cannot be decoded"):
        SymmetricPerToken(8, least=LEAST).decoded(torch.zeros(1, dtype=torch.int64))
