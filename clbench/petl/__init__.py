"""Define what a parameter-efficient module is: a recipe that puts branches at a backbone's sites.

A module file holds a dataclass of hyper-parameters with one method, ``branches``, that says which branch goes
to which site. Everything else (attach, detach, switch, merge, copy, count, save) is the same for all and done
by ``Attached``.

On a timm model, without the rest of clbench:

    model = timm.create_model("vit_tiny_patch16_224", pretrained=True, num_classes=10)
    module = clbench.petl.attach(model, "fact-tk", rank=16)

Then ``module.parameters()`` and the classifier's are what an optimiser gets, ``module.train()`` turns its
dropout on, ``model(images)`` feels it, ``module.save(file)`` keeps it alone and ``clbench.petl.load(model,
file)`` attaches it again. The model carries it as ``model.petl[0]``: casts, moves, copies and states of the
model are the module's too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clbench.errors import UserError
from clbench.registry import Registry, UnknownNameError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from clbench.backbones.backbone import Backbone
    from clbench.backbones.sites import Branch, Site
    from clbench.petl.attached import Attached

    Loss = Callable[[Any], Tensor]  # of a batch


class NeedsWeightsError(UserError, ValueError):
    """A module that learns the backbone's own weights, on a backbone that holds them in few bits."""


class NeedsAllTokensError(UserError, ValueError):
    """A module that needs each token in its place, on a backbone that merges or drops some."""


# How papers train modules on VTAB-1k, but for their warm-up and cosine.
VTAB_RECIPE = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4}


@dataclass(frozen=True)
class Petl(ABC):
    """A parameter-efficient module's hyper-parameters, and where its branches go."""

    # Whether attaching leaves the backbone's output unchanged, with the default options.
    identity_at_start: ClassVar[bool] = True
    mergeable: ClassVar[bool] = False  # whether the branches can be folded into the backbone's own weights
    trains_backbone: ClassVar[bool] = False  # whether the backbone is put in training mode with the module
    starts_from_loss: ClassVar[bool] = False  # whether start() is to be called before the first training
    steps_to_reach_all: ClassVar[int] = 2  # training steps after which every trained tensor got a gradient
    without_effect: ClassVar[tuple[str, ...]] = ()  # ends of the names of tensors that no output depends on
    recipe: ClassVar[dict[str, Any]] = {}  # how its paper trains it: options of a strategy, by their names

    @abstractmethod
    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Yield each branch, initialised from ``generator``, with the site that it attaches to."""

    def tuned(self, backbone: Backbone) -> Sequence[str]:
        """Return the names of the backbone's own tensors that are trained too; usually none."""
        return ()

    def rate_ratio(self, tensor: str) -> float:
        """Return what multiplies a tensor's learning rate, by its name in the attached module."""
        return 1.0

    def start(
        self, attached: Attached, loss: Loss, batches: Iterable[Any], generator: torch.Generator
    ) -> None:
        """Get ready for the first training with the loss on some of its batches; usually there is no need."""

    def attach(self, backbone: Backbone, generator: torch.Generator) -> Attached:
        """Attach to a backbone and return the attached module, switched on; what fails changes nothing."""
        from clbench.backbones.backbone import NEEDS_ALL_TOKENS
        from clbench.backbones.restoring import unchanged_if_it_fails
        from clbench.petl.attached import Attached
        from clbench.petl.in_place import trained_copies

        needs_weights = self.trains_backbone or self.starts_from_loss
        if needs_weights and any(form.enabled for form in backbone.quantised):
            raise NeedsWeightsError(
                f"{name_of(self)} learns the backbone's own weights or from their gradients,"
                " and a quantised backbone has none; take a module that learns beside them, such as lora"
            )
        with unchanged_if_it_fails(backbone):
            branches = list(self.branches(backbone, generator))
            if backbone.moves_tokens and any(branch.needs_all_tokens for _, branch in branches):
                raise NeedsAllTokensError(f"{name_of(self)} {NEEDS_ALL_TOKENS}")
            return Attached(backbone, self, branches, trained_copies(backbone, self.tuned(backbone)))


def attach(model: nn.Module | Backbone, name: str, *, seed: int = 0, **options: Any) -> Attached:
    """Attach the named module to a timm model or to a backbone, and return it, switched on.

    A timm model is opened in place, and frozen but for its classifier, the first time; for a second module
    give the ``backbone`` of the first. SpecError for an option that is none, CannotOpenError for a model of a
    family that has no sites, NoSuchSiteError where the module does not fit.
    """
    from clbench.petl.loading import attach_by_name

    return attach_by_name(model, name, options, seed)


def load(model: nn.Module | Backbone, file: str | Path) -> Attached:
    """Attach the module that ``Attached.save`` wrote to a file; PetlFileError where it holds none.

    Of Hugging Face peft, the folder that ``save_pretrained`` wrote to; PeftFileError names what it holds that
    no ``peft.<method>`` here computes. A classifier that was saved along is loaded into the model's own.
    """
    from clbench.petl.loading import load_attached

    return load_attached(model, Path(file))


def plain_state_dict(model: nn.Module | Backbone) -> dict[str, Tensor]:
    """Return the state of a model, what is merged included, as timm names it: ``load_state_dict`` takes it.

    NotPlainError while a module is felt that is not merged, and where merging added a bias to a layer that
    has none in timm's model.
    """
    from clbench.petl.plain import plain_weights

    return plain_weights(model)


def name_of(module: Petl) -> str:
    """Return the name or address that a module was asked for by; of a strategy's own, what it is."""
    try:
        return registry.name_of(type(module))
    except UnknownNameError:
        return f"the strategy's own module ({type(module).__name__})"


registry: Registry[Petl] = Registry("petl", __name__, Petl)
register, get, names = registry.register, registry.get, registry.names

__all__ = ["Petl", "attach", "get", "load", "names", "plain_state_dict", "register"]
