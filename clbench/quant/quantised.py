"""Hold a backbone's low-bit form: its switch, what it takes, and how it is saved."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Site
from clbench.errors import UserError
from clbench.quant import Quantiser
from clbench.quant.kernels import library
from clbench.quant.low_bit_layers import LowBitConv2d, LowBitLayer, LowBitLinear
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.places import OPERANDS, put
from clbench.quant.parts.rounding import Rounding

OF_ROUNDING = "rounding."  # in the names of a layer's tensors
AROUND = ("ratio", "offset", "correction")


class QuantisedError(UserError, ValueError):
    """What cannot be done with a quantised backbone."""


class Quantised:
    """Low-bit layers in place of a backbone's own, and roundings at its sites.

    ``enabled`` swaps them in and out at once; out, the backbone is bit for bit what it was. ``settle`` drops
    what the layers replace: from then on the backbone takes the bytes that are reported, and stays quantised.
    """

    def __init__(
        self,
        backbone: Backbone,
        quantiser: Quantiser,
        layers: Mapping[str, LowBitLayer],
        roundings: Mapping[str, Rounding] = {},
    ) -> None:
        """Take low-bit layers by the paths of those they replace, and roundings by their sites' names."""
        if backbone.quantised:
            raise QuantisedError("the backbone is quantised already")
        self.quantiser = quantiser
        self.layers, self.roundings = dict(layers), dict(roundings)
        self._backbone = backbone
        self._replaced = {path: backbone.get_submodule(path) for path in self.layers}
        self._key = ""
        self._is_on = False
        backbone.quantised.append(self)
        for module in (*self.layers.values(), *self.roundings.values()):
            module.to(backbone.device).eval()
        self.enabled = True

    @property
    def enabled(self) -> bool:
        """Whether the backbone computes with few bits."""
        return self._is_on

    @enabled.setter
    def enabled(self, on: bool) -> None:
        if on == self._is_on:
            return
        if not self._replaced:
            raise QuantisedError("the backbone's own weights were dropped: it stays quantised")
        for path, layer in (self.layers if on else self._replaced).items():
            put(self._backbone, path, layer)
        for name, rounding in self.roundings.items():
            self._backbone.site(name).rounding = rounding if on else None
        self._is_on = on

    @property
    def is_settled(self) -> bool:
        """Whether the backbone's own weights were dropped."""
        return not self._replaced

    def settle(self) -> None:
        """Drop the weights that the low-bit layers replace, for good."""
        self.enabled = True
        self._replaced = {}

    def detach(self) -> None:
        """Give the backbone its own layers back and forget it."""
        self.enabled = False
        self._backbone.quantised.remove(self)

    def attention(self) -> list[dict[str, Site]]:
        """Return the sites of the operands of each attention that is rounded, by OPERANDS."""
        blocks = dict.fromkeys(name.rpartition(".")[0] for name in self.roundings)
        return [{each: self._backbone.site(f"{block}.{each}") for each in OPERANDS} for block in blocks]

    def packed_bytes(self) -> int:
        """Return the bytes of the whole backbone: low-bit weights packed, everything else as it is held."""
        was_on, self.enabled = self.enabled, True
        num_bytes = self._backbone.num_bytes
        self.enabled = was_on
        return num_bytes

    def state_key(self) -> str:
        """Return a digest of the quantiser's options and of all that it chose."""
        if not self._key:
            total = hashlib.sha256(repr(self.quantiser).encode())
            for name, tensor in sorted(self.state().items()):
                total.update(name.encode())
                total.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
            self._key = total.hexdigest()
        return self._key

    @property
    def computed_by(self) -> str:
        """The kernels that multiply by its weights; nothing where torch does."""
        is_rounded = all(layer.rounding is not None for layer in self.layers.values())
        return "" if is_rounded or library.chosen() is None else library.in_words()

    def described(self) -> dict[str, tuple[str, int]]:
        """Return the kind and the bits of each rounding, by its place."""
        inside = {path: layer.rounding for path, layer in self.layers.items()}
        return {
            place: (type(rounding).__name__, rounding.bits)
            for place, rounding in (*inside.items(), *self.roundings.items())
            if rounding is not None
        }

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that the quantiser made, by their place."""
        own = {f"model.{name}" for name in self._backbone.plain_names.values()}
        return {
            f"{place}/{name}": tensor.detach().contiguous()
            for place, module in (*self.layers.items(), *self.roundings.items())
            for name, tensor in module.state_dict().items()
            if name != "bias" or f"{place}.bias" not in own  # merging may have added one
        }


def form_of(backbone: Backbone) -> Quantised | None:
    """Return the form of few bits that a backbone computes in now, if it does."""
    return next((cast("Quantised", form) for form in backbone.quantised if form.enabled), None)


def restored(
    backbone: Backbone,
    quantiser: Quantiser,
    described: Mapping[str, tuple[str, int]],
    state: Mapping[str, Tensor],
) -> Quantised:
    """Return what ``described`` and ``state`` were taken of, on a backbone of the same weights.

    KeyError, TypeError, ValueError or AttributeError where they do not belong together.
    """
    kinds: dict[str, type[Rounding]] = {kind.__name__: kind for kind in type(quantiser).roundings}
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in sorted(state.items()):
        place, _, inside = name.rpartition("/")
        tensors.setdefault(place, {})[inside] = tensor
    layers: dict[str, LowBitLayer] = {}
    roundings: dict[str, Rounding] = {}
    for place, own in tensors.items():
        rounding = None
        parts = {name.removeprefix(OF_ROUNDING): value for name, value in own.items() if _rounds(name)}
        if parts or "stored.planes" not in own:
            kind, bits = described[place]
            rounding = kinds[kind](bits, **(parts or own))
        if "stored.planes" in own:
            layers[place] = _layer(backbone.get_submodule(place), own, rounding)
        elif rounding is not None:
            roundings[place] = rounding
    return Quantised(backbone, quantiser, layers, roundings)


def low_bit(
    layer: nn.Linear | nn.Conv2d, stored: LowBitWeight, rounding: Rounding | None = None, **around: Tensor
) -> LowBitLayer:
    """Return what takes the place of a layer; ``around`` is what a linear one has around its rounding."""
    if isinstance(layer, nn.Linear):
        return LowBitLinear(layer, stored, rounding=rounding, **around)
    return LowBitConv2d(layer, stored, rounding=rounding)


def _layer(layer: nn.Module, own: Mapping[str, Tensor], rounding: Rounding | None) -> LowBitLayer:
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        raise TypeError(f"a {type(layer).__name__} has no low-bit form")
    planes, scale, zero = (own[f"stored.{name}"] for name in ("planes", "scale", "zero"))
    stored = LowBitWeight(planes, scale, zero, layer.weight[0].numel(), own.get("stored.levels"))
    stored.check(rows=len(layer.weight))
    made = low_bit(layer, stored, rounding, **{name: own[name] for name in AROUND if name in own})
    if "bias" in own:
        made.register_parameter("bias", nn.Parameter(own["bias"], requires_grad=False))
    return made


def _rounds(name: str) -> bool:
    return name.startswith(OF_ROUNDING)
