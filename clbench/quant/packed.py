"""Store a module's tensors in as few bytes as it needs: what a layer quantises is packed, the rest is kept.

A layer that holds fewer bits than it trains with derives from ``Packs``. Everything else is stored as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn


class Packs(nn.Module, ABC):
    """A layer whose parameters are stored in another form than they are trained in."""

    @abstractmethod
    def packed(self) -> dict[str, Tensor]:
        """Return what is stored instead of the layer's own state."""

    @abstractmethod
    def unpack(self, stored: Mapping[str, Tensor]) -> None:
        """Take what ``packed`` returned, for use without further training."""


def packed_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module's state, those of its packing layers packed."""
    packing = _packing(module)
    state = {key: value for key, value in module.state_dict().items() if not _inside(key, packing)}
    for name, layer in packing.items():
        state |= {f"{name}.{key}" if name else key: value for key, value in layer.packed().items()}
    return state


def unpack(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what ``packed_state`` returned; RuntimeError or KeyError where it does not fit."""
    packing = _packing(module)
    for name, layer in packing.items():
        prefix = f"{name}." if name else ""
        layer.unpack({key: state[prefix + key] for key in layer.packed()})
    own = {key: value for key, value in module.state_dict().items() if _inside(key, packing)}
    plain = {key: value for key, value in state.items() if not _inside(key, packing)}
    module.load_state_dict({**own, **plain})


def load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a module's state, whether its layers are packed there or not."""
    layers = _packing(module).items()
    packed = {f"{name}.{key}" if name else key for name, layer in layers for key in layer.packed()}
    if packed and packed <= state.keys():
        unpack(module, state)
    else:
        module.load_state_dict(state)


def packed_bytes(module: nn.Module) -> int:
    """Return the bytes that a module takes when it is stored packed."""
    return sum(tensor.numel() * tensor.element_size() for tensor in packed_state(module).values())


def _packing(module: nn.Module) -> dict[str, Packs]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Packs)}


def _inside(key: str, packing: Mapping[str, Packs]) -> bool:
    return any(not name or key.startswith(f"{name}.") for name in packing)
