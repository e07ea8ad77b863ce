"""Define what a registered backbone is: a network built from one of timm's classes, and its images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from clbench.backbones.backbone import Preprocessing


class Architecture(ABC):
    """A network without classifier, and what it expects of an image."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the network, of a timm class that can be opened, with random weights.

        They may be drawn from torch's global generator, which is seeded around the call.
        """

    @abstractmethod
    def published(self) -> tuple[nn.Module, str]:
        """Return the network with the weights it is known for, and where they come from."""

    def earlier(self) -> Sequence[Architecture]:
        """Return what was known by this name before: records that were made with it go on with it."""
        return ()

    def file_names(self) -> tuple[str, ...]:
        """Return by which names, without their ending, its published weights are known; the surest first."""
        return ()

    @abstractmethod
    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return what the network expects of an image."""
