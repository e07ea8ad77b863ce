"""Learn features from pairs, and classify by the class means of a memory: no classifier to be biased.

G. Shen, S. Jie, Z. Li, Z. Deng, "Bypassing Logits Bias in Online Class-Incremental Learning with a Generative
Framework", 2022, arXiv 2205.09347. The abstract is all that could be read of the paper, and there is no
public code: the two losses are the standard ones of its kind, and the numbers below are our choice.

    loss = MultiSimilarity + gamma ProxyNCA       over new and replayed images, embeddings e = f(x) / |f(x)|
    prediction = argmax_c e . m_c                 m_c: normalised mean of the memory's embeddings of class c

Each image is met once, in batches; nothing is said about tasks. The memory is a reservoir. The proxies serve
the training alone. A backbone that is trained from scratch (``--petl full`` with ``stream.online``) gets SGD
at 0.1, a module on a pre-trained one AdamW at 0.001 (our choice). Plain Proxy-NCA has a scale of 2, with
which even a certain image has logits between -2 and 2; 16 was chosen on held-out images, among 2 and 16, for
both tracks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.kinds import HasKinds
from clbench.learning.losses.multi_similarity import multi_similarity
from clbench.learning.losses.proxy_nca import proxy_nca
from clbench.learning.memory import Memory
from clbench.learning.memory_means import LinearDiscriminant, MemoryClassifier, MovingMeans, NearestMean
from clbench.learning.replay import FROM_SCRATCH, with_replayed
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register

MINING_MARGIN = 0.1  # of the Multi-Similarity paper


@register("generative", petl="adapter")
@dataclass
class Generative(Strategy):
    """A metric loss on new and replayed images; class means of the memory, as the encoder sees it now."""

    recipes: ClassVar[dict[str, dict[str, Any]]] = {"online+full": FROM_SCRATCH}

    epochs: Annotated[int, Field(ge=1)] = 1
    batch_size: Annotated[int, Field(ge=1)] = 16
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    memory_size: Annotated[int, Field(ge=1)] = 2000  # images
    replay_batch: Annotated[int, Field(ge=0)] = 0  # images replayed a step; 0: as many as are new
    num_updates: Annotated[int, Field(ge=1)] = 1  # steps on a batch, each with other replayed images
    gamma: Annotated[float, Field(ge=0)] = 1.0  # weight of the discriminative part; 0: purely generative
    alpha: Annotated[float, Field(gt=0)] = 2.0  # sharpness among images of one class
    beta: Annotated[float, Field(gt=0)] = 50.0  # sharpness among images of different classes
    threshold: float = 1.0  # similarity that pairs are compared with
    miner: Literal["none", "ms"] = "none"  # pairs that count: all, or the hard ones of Multi-Similarity
    proxy_scale: Annotated[float, Field(gt=0)] = 16.0  # of the cosines to the proxies; plain Proxy-NCA: 2
    active: Literal["seen", "batch"] = "seen"  # proxies that compete: of all classes met, or of the batch's
    classifier: Literal["ncm", "lda", "ncm_running"] = (
        "ncm"  # means of the memory; with a covariance; or moving averages over the training batches
    )
    mean_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9  # ncm_running: kept of a mean at each batch
    augment: Literal["none", "replayed", "all"] = "none"  # the images that are augmented in training

    @property
    def gives_probabilities(self) -> bool:  # type: ignore[override]  # what the classifier says
        """Whether ``classifier`` is lda: a cosine is none."""
        return self.classifier == "lda"

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module; start without proxies and with an empty memory."""
        self.backbone = backbone
        self.seeds = seeds
        self.module = petl.attach(backbone, seeds.generator("petl"))
        self.proxies = Proxies(backbone.width)
        self.moving = MovingMeans(backbone.width, self.mean_decay)
        self.memory = Memory(self.memory_size).to(backbone.device)
        fit = LinearDiscriminant if self.classifier == "lda" else NearestMean
        self.means = MemoryClassifier(backbone, self.memory, fit)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module, the proxies and the memory."""
        moving = {"means": self.moving} if self.classifier == "ncm_running" else {}
        return {"petl": self.module, "proxies": self.proxies, **moving, "memory": self.memory}

    def steps_per_batch(self) -> int:
        """Return the number of updates."""
        return self.num_updates

    def begin_task(self, task: Task) -> None:
        """Make room for the classes that may come now."""
        num_new, generator = len(task.new_classes), self.seeds.generator("proxies", task.index)
        self.proxies.grow(num_new, generator, self.backbone.device)
        self.moving.grow(num_new, self.backbone.device)
        self.memory.reserve(task.train.image_shape)
        self.means.forget()

    def before_step(self, batch: Batch) -> Batch:
        """Put replayed images behind the new ones."""
        return with_replayed(batch, self.memory, self.replay_batch or len(batch))

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss between pairs, and between images and proxies."""
        embedding, labels = self._features(batch), batch.labels
        self.latest = embedding.detach()
        margin = None if self.miner == "none" else MINING_MARGIN
        generative = multi_similarity(
            embedding, labels, alpha=self.alpha, beta=self.beta, threshold=self.threshold, margin=margin
        )
        known = self.proxies.known_with(labels)
        places = known.cumsum(dim=0)[labels] - 1
        proxies = self.proxies.directions()[known]
        nearest = proxy_nca(embedding, places, proxies, scale=self.proxy_scale, active=self.active)
        return generative + self.gamma * nearest

    def after_step(self, batch: Batch) -> None:
        """Offer the new images to the reservoir, the first time that they are met."""
        self.proxies.known.copy_(self.proxies.known_with(batch.labels))
        self.moving.add(self.latest, batch.labels)
        if batch.is_first_pass:
            self.memory.reservoir(batch.new(), batch.generator("memory"))
        self.means.forget()

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the cosines to the class means, or the posterior of ``lda``."""
        if self.classifier == "ncm_running":
            return self.moving.scores(inputs, self.backbone)
        return self.means.scores(inputs, len(self.proxies.known))

    def summary(self) -> dict[str, Tensor]:
        """Return the class means."""
        return {} if self.classifier == "ncm_running" else self.means.summary()

    def predict_by(self, summary: Mapping[str, Tensor]) -> None:
        """Take the class means."""
        self.means.predict_by(summary, len(self.proxies.known))

    def _features(self, batch: Batch) -> Tensor:
        """Return the features of the images, augmented or not."""
        if self.augment == "replayed":
            new, replayed = batch.plain().images[: batch.num_new], batch.images[batch.num_new :]
            features: Tensor = self.backbone(torch.cat([new, replayed]))
            return features
        return (batch if self.augment == "all" else batch.plain()).features(self.backbone)


class Proxies(HasKinds):
    """A direction (D,) a class, which is learnt, and whether the class has been met."""

    kinds: ClassVar[dict[str, str]] = {"": "head"}

    known: Tensor

    def __init__(self, width: int) -> None:
        """Start without classes."""
        super().__init__()
        self.width = width
        self.tasks = (
            nn.ParameterList()
        )  # a segment each, so that an optimiser that goes on knows the old ones
        self.register_buffer("known", torch.zeros(0, dtype=torch.bool))

    def grow(self, num_classes: int, generator: torch.Generator, device: torch.device) -> None:
        """Append random unit vectors."""
        drawn = torch.randn(num_classes, self.width, generator=generator)
        self.tasks.append(nn.Parameter(F.normalize(drawn, dim=1).to(device)))
        self.known = torch.cat([self.known.to(device), self.known.new_zeros(num_classes, device=device)])

    def directions(self) -> Tensor:
        """Return the proxies (C, D) of all classes, met or not."""
        return torch.cat(list(self.tasks))

    def known_with(self, labels: Tensor) -> Tensor:
        """Return which classes are known once these are (C,)."""
        return self.known.index_fill(0, labels, True)
