"""Fit a ridge regression from sums over batches, and compare ridges at the price of one decomposition.

Shapes: B samples, F samples to fit, V held-out samples, M inputs, C outputs, K = min(F, M), R ridges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from clbench.kinds import HasKinds
from clbench.outside.finite import refuse_any_not_finite


class RidgeRegression(HasKinds):
    """The sums G = H'H (M, M) and Q = H'Y (M, C), and the weights (M, C) that they give."""

    kinds: ClassVar[dict[str, str]] = {"": "covariances", "weight": "head"}
    to_learn: ClassVar[tuple[str, ...]] = ("gram", "cross")

    gram: Tensor
    cross: Tensor
    weight: Tensor

    def __init__(self, num_inputs: int) -> None:
        """Start with no sample and no output."""
        super().__init__()
        self.register_buffer("gram", torch.zeros(num_inputs, num_inputs))
        self.register_buffer("cross", torch.zeros(num_inputs, 0))
        self.register_buffer("weight", torch.zeros(num_inputs, 0))

    def grow(self, num_outputs: int, device: torch.device) -> None:
        """Make room for new outputs, which are zero for all samples so far."""
        self.to(device)
        more = self.cross.new_zeros(len(self.cross), num_outputs)
        self.cross = torch.cat([self.cross, more], dim=1)
        self.weight = torch.cat([self.weight, more], dim=1)

    @torch.no_grad()
    def add(self, input_BM: Tensor, target_BC: Tensor) -> None:
        """Add samples to the sums."""
        self.gram.addmm_(input_BM.T, input_BM)
        self.cross.addmm_(input_BM.T, target_BC)

    @torch.no_grad()
    def solve(self, ridge: float) -> None:
        """Set the weights to (G + ridge I)^-1 Q.

        G is rounded: where a small ridge leaves the sum indefinite, the next decade that does not is taken.
        NotFiniteError if a sum has grown beyond what is finite, or what was summed up was not.
        """
        refuse_any_not_finite({"G": self.gram, "Q": self.cross}, "the sums of the regression")
        while True:
            ridged_MM = self.gram.clone()
            ridged_MM.diagonal().add_(ridge)
            factor_MM, failure = torch.linalg.cholesky_ex(ridged_MM)
            if not failure:
                break
            ridge *= 10
        self.weight.copy_(torch.cholesky_solve(self.cross, factor_MM))


@torch.no_grad()
def errors_of_ridges(
    fit_FM: Tensor, target_FC: Tensor, held_VM: Tensor, held_target_VC: Tensor, ridges: Sequence[float]
) -> Tensor:
    """Return the mean squared error (R,) on the held-out samples of the regression with each ridge.

    One symmetric eigendecomposition, of the smaller of H'H and HH', serves all: with H = U S^(1/2) V', the
    prediction is ``held V (S + ridge)^-1 V'H'Y``, which is ``held H'U (S + ridge)^-1 U'Y``.
    """
    if len(fit_FM) <= fit_FM.shape[1]:
        spectrum_K, basis_FK = _decomposed(fit_FM @ fit_FM.T)
        left_VK, right_KC = held_VM @ (fit_FM.T @ basis_FK), basis_FK.T @ target_FC
    else:
        spectrum_K, basis_MK = _decomposed(fit_FM.T @ fit_FM)
        left_VK, right_KC = held_VM @ basis_MK, basis_MK.T @ (fit_FM.T @ target_FC)
    errors = [
        ((left_VK / (spectrum_K + ridge)) @ right_KC - held_target_VC).square().mean() for ridge in ridges
    ]
    return torch.stack(errors)


def _decomposed(gram_KK: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues (K,), none below 0, and the eigenvectors (K, K), found in double precision."""
    spectrum_K, basis_KK = torch.linalg.eigh(gram_KK.double())
    return spectrum_K.clamp_min(0).to(gram_KK.dtype), basis_KK.to(gram_KK.dtype)
