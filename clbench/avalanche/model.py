"""Build what Avalanche's strategies train: an encoder of stored images, and a head that grows.

Imported late, since it imports Avalanche.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import avalanche
import torch
from avalanche.core import SupervisedPlugin
from avalanche.models import IncrementalClassifier, NCMClassifier
from avalanche.models.base_model import BaseModel
from torch import Tensor, nn

from clbench.avalanche.experiences import as_stored
from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher
from clbench.data.inputs import Counting
from clbench.kinds import HasKinds
from clbench.petl.attached import Attached
from clbench.seeds import Seeds, forked_everywhere


class View:
    """How images are seen: augmented while an epoch trains on them, in the test transform otherwise.

    All copies of an encoder share one view, and a batch that several of them look at, one after another, is
    augmented once: a strategy that compares two models compares them on the same pixels.
    """

    def __init__(self) -> None:
        """Wait for ``begin``."""
        self.is_augmenting = False
        self._last: tuple[Tensor | None, Tensor | None, bool] = (None, None, False)

    def begin(self, batcher: Batcher, generator: torch.Generator, sampling: Counting | None = None) -> None:
        """Transform with ``batcher`` from now on, and draw augmentations from ``generator``.

        ``sampling`` hears of each training step.
        """
        self.batcher = batcher
        self.generator = generator
        self.sampling = sampling

    def of(self, images: Tensor) -> Tensor:
        """Return images (B, 3, H, W) in [0, 1] as the backbone wants them: (B, 3, S, S), normalised."""
        given, seen, was_augmenting = self._last
        if seen is None or given is not images or was_augmenting is not self.is_augmenting:
            stored = as_stored(images)
            augment = self.is_augmenting
            seen = self.batcher.augmented(stored, self.generator) if augment else self.batcher.plain(stored)
            self._last = (images, seen, augment)
        return seen

    def forget(self) -> None:
        """Let go of the last batch."""
        self._last = (None, None, False)

    def __deepcopy__(self, memo: dict[int, Any]) -> View:
        """Return the view itself."""
        return self


class Encoder(nn.Module):
    """Stored images to features: the view, and the backbone with a module; only the module is its own.

    The backbone is not among its children, so no strategy finds its parameters, trains them or stores them.
    """

    def __init__(self, backbone: Backbone, module: Attached) -> None:
        """Take a backbone and the module at its sites."""
        super().__init__()
        self.module = module
        self.view = View()
        self._backbone = (backbone,)

    @property
    def backbone(self) -> Backbone:
        """What the module is attached to: a copied encoder has a copy."""
        return self._backbone[0]

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, D) of images (B, 3, H, W) in [0, 1]."""
        features: Tensor = self.backbone(self.view.of(images))
        return features

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoder:
        """Copy everything but the frozen weights, which are shared."""
        memo |= {id(weight): weight for weight in self.backbone.parameters() if not weight.requires_grad}
        twin = Encoder.__new__(Encoder)
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin


class Network(nn.Module, BaseModel):  # type: ignore[misc]  # Avalanche ships no types
    """An encoder and a classifier; ``get_features`` is what Avalanche's own models call it."""

    def __init__(self, encoder: Encoder, classifier: nn.Module) -> None:
        """Join the two."""
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier

    def get_features(self, images: Tensor) -> Tensor:
        """Return the features of stored images."""
        features: Tensor = self.encoder(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return the classifier's output on stored images."""
        output: Tensor = self.classifier(self.encoder(images))
        return output


class Epochs(SupervisedPlugin):  # type: ignore[misc]  # Avalanche ships no types
    """Tells a view when an epoch trains on its images."""

    def __init__(self, view: View) -> None:
        """Take the view."""
        super().__init__()
        self.view = view

    def before_training_epoch(self, strategy: object, **_: object) -> None:
        """Augment from now on."""
        self.view.is_augmenting = True

    def after_training_epoch(self, strategy: object, **_: object) -> None:
        """See images in the test transform again."""
        self.view.is_augmenting = False

    def before_training_iteration(self, strategy: object, **_: object) -> None:
        """Begin a step, of which the first of a task is counted."""
        if self.view.sampling:
            self.view.sampling.begin()

    def after_training_iteration(self, strategy: Any, **_: object) -> None:
        """End the step."""
        if self.view.sampling:
            self.view.sampling.end(len(strategy.mb_x))


class OwnValues(SupervisedPlugin):  # type: ignore[misc]  # Avalanche ships no types
    """Lets synaptic intelligence remember weights as they were.

    Avalanche 0.6.0 remembers the tensors themselves where they are on the CPU; they change with every step,
    so that its penalty is always 0. Stands behind its plug-in.
    """

    def __init__(self, theirs: Any) -> None:
        """Take Avalanche's plug-in."""
        super().__init__()
        self.theirs = theirs

    def before_training_exp(self, strategy: object, **_: object) -> None:
        """Copy the weights that the penalty is about."""
        _copy_values(self.theirs.ewc_data[0])

    def before_training_iteration(self, strategy: object, **_: object) -> None:
        """Copy the weights that the step starts from."""
        _copy_values(self.theirs.syn_data["old_theta"])


def _copy_values(values: dict[str, Any]) -> None:
    for each in values.values():
        each.data = each.data.clone()


class NewTeacher(SupervisedPlugin):  # type: ignore[misc]  # Avalanche ships no types
    """Lets iCaRL copy its old model anew after a task: the one before has fewer classes."""

    def after_training_exp(self, strategy: Any, **_: object) -> None:
        """Drop the old model, which the loss copies next."""
        strategy._criterion.old_model = None


class Kept(HasKinds):
    """Copies of what a strategy of Avalanche keeps between tasks outside its model, as buffers."""

    def __init__(self, kind: str) -> None:
        """Start with nothing; ``kind`` is what it is for, see ``clbench.kinds``."""
        super().__init__()
        self.kind = kind

    def kind_of(self, name: str) -> str:
        """Return the one kind of all tensors."""
        return self.kind

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Hold copies of these tensors and of no others."""
        self._buffers.clear()
        for number, tensor in enumerate(tensors):
            self.register_buffer(str(number), tensor.detach().clone())


def in_order(state: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the tensors of a ``Kept`` in the order in which it was given them."""
    return [state[name] for name in sorted(state, key=int)]


def take(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a module the tensors of another of its kind that has grown."""
    for name, tensor in state.items():
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        slots: dict[str, Any] = owner._parameters if attribute in owner._parameters else owner._buffers
        slots[attribute] = nn.Parameter(tensor.clone()) if slots is owner._parameters else tensor.clone()


def growing_head(width: int) -> nn.Module:
    """Return Avalanche's classifier that grows, with one class."""
    head: nn.Module = IncrementalClassifier(width, initial_out_features=1)
    return head


def nearest_mean(*, normalise: bool) -> nn.Module:
    """Return Avalanche's classifier by the nearest class mean, without classes."""
    head: nn.Module = NCMClassifier(normalize=normalise)
    return head


@contextmanager
def on_its_own(seeds: Seeds, purpose: str, *position: int) -> Iterator[None]:
    """Let Avalanche draw from the global generators, seeded for this position, and put them back after.

    Its own warnings are not shown: they are about loggers, of which it has none here, and about what will
    change in its next versions. They are caught, not filtered, since its decorator for what is deprecated
    puts filters of its own in front. Those of others are issued once more.
    """
    seed = seeds.derive(purpose, *position)
    with forked_everywhere(seed), warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("ignore", module=r"avalanche\.")
        seeds.seed_torch(*position)
        yield
    for warning in caught:
        if not Path(warning.filename).is_relative_to(Path(avalanche.__file__).parent):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
