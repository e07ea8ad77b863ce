"""Classify by a memory: see its images with the encoder as it is now, and fit Gaussians to their features.

Nearest class mean (NCM) is Bayes' rule with equal priors and one isotropic variance; LDA has one full
covariance instead, shrunk as in Y. Chen, A. Wiesel, Y. C. Eldar, A. O. Hero, "Shrinkage Algorithms for MMSE
Covariance Estimation", IEEE Transactions on Signal Processing 2010, arXiv 0907.4698 (OAS).

A class without an image in the memory is predicted only where no other one is allowed.

Shapes: N images in the memory, C classes, D width, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Inputs
from clbench.kinds import HasKinds
from clbench.learning.memory import Memory

CHUNK = 256  # images of the memory that are looked at together
ABSENT = -2.0  # in place of the cosine of a class without an image: below any
LEAST = 2e-12  # posterior of a class with an image; that of one without is 0

Fit = Callable[[Tensor, Tensor, int], nn.Module]  # of unit vectors (N, D), labels (N,) and C


class MemoryClassifier:
    """A classifier that is fitted when it is asked, unless nothing has changed since it last was.

    It is no state: whoever holds it calls ``forget`` when the encoder, the memory or the classes change.
    """

    def __init__(self, backbone: Backbone, memory: Memory, fit: Fit) -> None:
        """Know nothing yet."""
        self.backbone = backbone
        self.memory = memory
        self.fit = fit
        self._scores: nn.Module | None = None  # unit vectors (B, D) to scores (B, C)

    def forget(self) -> None:
        """Fit anew when asked next."""
        self._scores = None

    def scores(self, inputs: Inputs, num_classes: int) -> Tensor:
        """Return the scores (B, C)."""
        if self._scores is None:
            with torch.inference_mode(False), torch.no_grad():  # later calls may need gradients
                labels = self.memory.labels[: len(self.memory)]
                self._scores = self.fit(self._embedded(inputs), labels, num_classes)
        scores: Tensor = self._scores(embedded(inputs, self.backbone))
        return scores

    def summary(self) -> dict[str, Tensor]:
        """Return what the images of the memory were fitted to: nothing that shows one of them."""
        return {} if self._scores is None else dict(self._scores.state_dict())

    def predict_by(self, summary: Mapping[str, Tensor], num_classes: int) -> None:
        """Score by what ``summary`` returned, whatever the memory holds, until something changes."""
        embedding_0D = torch.zeros(0, self.backbone.width, device=self.backbone.device)
        labels = torch.zeros(0, dtype=torch.int64, device=self.backbone.device)
        self._scores = self.fit(embedding_0D, labels, num_classes)
        self._scores.load_state_dict(summary)

    def _embedded(self, inputs: Inputs) -> Tensor:
        """Return the unit vectors (N, D) of the memory's images, in the test transform."""
        pieces = [torch.zeros(0, self.backbone.width, device=self.backbone.device)]
        for start in range(0, len(self.memory), CHUNK):
            stored = self.memory.at(torch.arange(start, min(start + CHUNK, len(self.memory))))
            view = Inputs(batcher=inputs.batcher, rows=stored.rows.cpu().numpy(), cache=inputs.cache)
            view.stored = stored.items
            pieces.append(embedded(view, self.backbone))
        return torch.cat(pieces)


class MovingMeans(HasKinds):
    """Class means (C, D) that follow the embeddings of the training batches: nothing is looked at twice."""

    kinds: ClassVar[dict[str, str]] = {"": "prototypes"}

    means: Tensor
    is_met: Tensor

    def __init__(self, width: int, decay: float) -> None:
        """Start without classes; ``decay`` is the share of a mean that a batch leaves, in [0, 1)."""
        super().__init__()
        self.decay = decay
        self.register_buffer("means", torch.zeros(0, width))
        self.register_buffer("is_met", torch.zeros(0, dtype=torch.bool))

    def grow(self, num_classes: int, device: torch.device) -> None:
        """Make room for new classes."""
        self.means = F.pad(self.means.to(device), (0, 0, 0, num_classes))
        self.is_met = F.pad(self.is_met.to(device), (0, num_classes))

    @torch.no_grad()
    def add(self, feature_BD: Tensor, labels: Tensor) -> None:
        """Move the mean of each class in a batch towards the batch's; a first one is taken as it is."""
        member_BC = F.one_hot(labels, len(self.means)).float()
        batch_CD = member_BC.T @ F.normalize(feature_BD.float(), dim=1)
        batch_CD /= member_BC.sum(dim=0).clamp_min(1)[:, None]
        is_here = member_BC.any(dim=0)
        weight_C = torch.where(self.is_met, 1 - self.decay, 1.0) * is_here
        self.means.lerp_(batch_CD, weight_C[:, None])
        self.is_met |= is_here

    def scores(self, inputs: Inputs, backbone: Backbone) -> Tensor:
        """Return the cosines (B, C)."""
        cosine_BC = embedded(inputs, backbone) @ F.normalize(self.means, dim=1).T
        return cosine_BC.masked_fill(~self.is_met, ABSENT)


def embedded(inputs: Inputs, backbone: Backbone) -> Tensor:
    """Return the features (B, D) as unit vectors, in float32."""
    return F.normalize(inputs.features(backbone).float(), dim=1)


class NearestMean(nn.Module):
    """Score by the cosine to the mean of a class's unit vectors.

    On the unit sphere the largest cosine is the smallest distance to the normalised mean.
    """

    mean_CD: Tensor
    is_absent: Tensor

    def __init__(self, embedding_ND: Tensor, labels: Tensor, num_classes: int) -> None:
        """Fit the means of unit vectors."""
        super().__init__()
        member_NC = F.one_hot(labels, num_classes).to(embedding_ND.dtype)
        self.register_buffer("mean_CD", F.normalize(member_NC.T @ embedding_ND, dim=1))
        self.register_buffer("is_absent", member_NC.sum(dim=0) == 0)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Return the cosines (B, C)."""
        return (embedding_BD @ self.mean_CD.T).masked_fill(self.is_absent, ABSENT)


class LinearDiscriminant(nn.Module):
    """Score by the posterior of Gaussians with one covariance and equal priors; without images all alike."""

    weight_DC: Tensor
    bias_C: Tensor

    def __init__(self, embedding_ND: Tensor, labels: Tensor, num_classes: int) -> None:
        """Fit the Gaussians to unit vectors."""
        super().__init__()
        embedding_ND = embedding_ND.double()
        member_NC = F.one_hot(labels, num_classes).to(embedding_ND.dtype)
        mean_CD = member_NC.T @ embedding_ND / member_NC.sum(dim=0).clamp_min(1)[:, None]
        covariance_DD = shrunk_covariance(embedding_ND - mean_CD[labels])
        weight_DC = torch.linalg.solve(covariance_DD, mean_CD.T)
        bias_C = -(weight_DC.T * mean_CD).sum(dim=1) / 2
        is_absent = member_NC.sum(dim=0) == 0
        if not is_absent.all():
            bias_C[is_absent] = -torch.inf
        self.register_buffer("weight_DC", weight_DC)
        self.register_buffer("bias_C", bias_C)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Return the posteriors (B, C)."""
        posterior_BC: Tensor = (embedding_BD.double() @ self.weight_DC + self.bias_C).softmax(dim=1).float()
        return posterior_BC.clamp_min(LEAST).masked_fill(self.bias_C.isneginf(), 0.0)


def shrunk_covariance(centred_ND: Tensor) -> Tensor:
    """Return the covariance (D, D) of vectors with mean 0, pulled towards a sphere by the OAS rule."""
    number, width = centred_ND.shape
    sample_DD = centred_ND.T @ centred_ND / max(number, 1)
    trace = sample_DD.trace()
    square_of_trace, trace_of_square = trace.square(), sample_DD.square().sum()
    share = (1 - 2 / width) * trace_of_square + square_of_trace
    share = share / ((number + 1 - 2 / width) * (trace_of_square - square_of_trace / width))
    share = share.nan_to_num(1.0, 1.0, 1.0).clamp(0, 1)
    sphere_DD = torch.eye(width, dtype=sample_DD.dtype, device=sample_DD.device) * (trace / width + 1e-6)
    return (1 - share) * sample_DD + share * sphere_DD
