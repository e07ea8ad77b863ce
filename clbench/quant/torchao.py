"""Quantise linear layers as torchao does: it chooses codes and scales, and low-bit layers compute with them.

torchao, https://github.com/pytorch/ao, is not a dependency: ``pip install "clbench[torchao]"``. Its choice is
kept number for number; outputs differ from its own by how sums are rounded. Convolutions stay in float, as
with torchao.

Differs from torchao: codes are packed into as many bits as they have (torchao holds 2 bits in a byte);
gradients reach the input, which rounding activations cuts off there; and its int8 kernels are not used. What
torchao offers and this file does not is in ``REFUSED``, with the reason.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.errors import UserError
from clbench.quant import Quantiser, register
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.observed import matrix_of
from clbench.quant.parts.per_token import AsymmetricPerToken, SymmetricPerToken
from clbench.quant.parts.places import Place, stages
from clbench.quant.parts.rounding import Rounding
from clbench.quant.quantised import Quantised, low_bit

CUDA = "it computes on a CUDA device of a kind that multiplies float8"
REFUSED = {  # what torchao's list of configurations has and this file does not
    "AOPerModuleConfig": "it says which layers get which other configuration",
    "Float8DynamicActivationFloat8WeightConfig": CUDA,
    "Float8DynamicActivationInt4WeightConfig": "its codes are laid out for mslk's kernels on a CUDA device",
    "Float8MMConfig": "it says how float8 is multiplied",
    "Float8StaticActivationFloat8WeightConfig": CUDA,
    "FqnToConfig": "it says which layers get which other configuration",
    "Int4WeightOnlyConfig": "its codes are laid out for kernels that no CPU has; here: torchao.intx:bits=4",
    "Int8StaticActivationInt8WeightConfig": "it wants activation scales that observers of torchao chose",
    "ModuleFqnToConfig": "it says which layers get which other configuration",
}


class TorchaoError(UserError, ValueError):
    """torchao is missing, or cannot quantise this backbone with these options."""


@dataclass(frozen=True)
class TorchaoMethod(Quantiser):
    """A configuration of torchao."""

    config: ClassVar[str]  # its name there

    @abstractmethod
    def options(self, torchao: ModuleType) -> dict[str, object]:
        """Return the keywords of the configuration."""

    @abstractmethod
    def weight(self, chosen: nn.Parameter) -> LowBitWeight:
        """Return what torchao's weight says, in our form."""

    def rounding(self) -> Rounding | None:
        """Return what is done to the input of a layer."""
        return None

    def quantise(self, backbone: Backbone, images: Tensor, generator: torch.Generator) -> Quantised:
        """Let torchao choose for copies of all linear layers."""
        torchao = imported()
        config = getattr(torchao, self.config)(**self.options(torchao))
        layers = {
            place.path: low_bit(place.layer, self._stored(torchao, config, place), self.rounding())
            for stage in stages(backbone)
            for place in stage.places
            if isinstance(place.layer, nn.Linear)
        }
        if not layers:
            raise TorchaoError(f"torchao quantises linear layers, and {backbone.name} has none")
        return Quantised(backbone, self, layers)

    def _stored(self, torchao: ModuleType, config: object, place: Place) -> LowBitWeight:
        matrix = matrix_of(place.layer).clone()
        copied = nn.Linear(matrix.shape[1], len(matrix), bias=False, device="meta")
        copied.weight = nn.Parameter(matrix, requires_grad=False)
        try:
            torchao.quantize_(nn.Sequential(copied), config)
        except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise TorchaoError(
                f"{place.path}: torchao cannot quantise a weight {tuple(matrix.shape)}: {reason}"
            ) from error
        return self.weight(copied.weight)


@dataclass(frozen=True)
class AnyBits(TorchaoMethod):
    """Codes of 2 to 8 bits."""

    bits: Annotated[int, Field(ge=2, le=8)] = 4  # of a weight; torchao's single bit is 0 for every weight
    group: Annotated[int, Field(ge=0)] = 0  # neighbours in a row that share a scale; divides it; 0: the row
    grid: Literal["symmetric", "asymmetric"] = "symmetric"  # around 0; or from the least to the greatest

    def weight(self, chosen: nn.Parameter) -> LowBitWeight:
        """Return the codes, counted from the least one."""
        return _even(chosen, self.bits)

    def grain(self, torchao: ModuleType) -> object:
        """Return which weights share a scale, as torchao says it."""
        return torchao.PerGroup(self.group) if self.group else torchao.PerAxis(0)

    def mapping(self, torchao: ModuleType) -> object:
        """Return which grid it is, as torchao says it."""
        return torchao.MappingType[self.grid.upper()]


@register("torchao.intx")
@dataclass(frozen=True)
class WeightsOfAnyBits(AnyBits):
    """Weights of 2 to 8 bits, and nothing else."""

    config: ClassVar[str] = "IntxWeightOnlyConfig"

    def options(self, torchao: ModuleType) -> dict[str, object]:
        """Return bits, groups and grid."""
        return {
            "weight_dtype": getattr(torch, f"int{self.bits}"),
            "granularity": self.grain(torchao),
            "mapping_type": self.mapping(torchao),
        }


@register("torchao.intx-dynamic")
@dataclass(frozen=True)
class DynamicAnyBits(AnyBits):
    """Weights of 2 to 8 bits, times activations of 8 bits with an asymmetric grid a token."""

    config: ClassVar[str] = "Int8DynamicActivationIntxWeightConfig"
    roundings: ClassVar[tuple[type, ...]] = (AsymmetricPerToken,)

    def options(self, torchao: ModuleType) -> dict[str, object]:
        """Return bits, groups and grid."""
        return {
            "weight_dtype": getattr(torch, f"int{self.bits}"),
            "weight_granularity": self.grain(torchao),
            "weight_mapping_type": self.mapping(torchao),
        }

    def rounding(self) -> Rounding | None:
        """Return the grids of the tokens."""
        return AsymmetricPerToken(8, least=torch.tensor(torch.finfo(torch.float32).tiny))


@register("torchao.int8")
@dataclass(frozen=True)
class WeightsOfEightBits(TorchaoMethod):
    """Weights of 8 bits with a symmetric grid a row, and nothing else."""

    config: ClassVar[str] = "Int8WeightOnlyConfig"

    def options(self, torchao: ModuleType) -> dict[str, object]:
        """Return nothing but that the compiler's settings, which are global, are left alone."""
        return {"set_inductor_config": False}

    def weight(self, chosen: nn.Parameter) -> LowBitWeight:
        """Return the codes, counted from the least one."""
        return _even(chosen, 8)


@register("torchao.int8-dynamic")
@dataclass(frozen=True)
class DynamicEightBits(TorchaoMethod):
    """Weights of 8 bits, times activations of 8 bits with a symmetric grid a token."""

    config: ClassVar[str] = "Int8DynamicActivationInt8WeightConfig"
    roundings: ClassVar[tuple[type, ...]] = (SymmetricPerToken,)

    def options(self, torchao: ModuleType) -> dict[str, object]:
        """Return nothing but that the compiler's settings, which are global, are left alone."""
        return {"set_inductor_config": False}

    def weight(self, chosen: nn.Parameter) -> LowBitWeight:
        """Return the codes, counted from the least one."""
        return _even(chosen, 8)

    def rounding(self) -> Rounding | None:
        """Return the grids of the tokens."""
        return SymmetricPerToken(8, least=torch.tensor(torch.finfo(torch.float32).eps))


@register("torchao.float8")
@dataclass(frozen=True)
class WeightsOfFloat8(TorchaoMethod):
    """Weights in float8, four bits of exponent and three of mantissa, with a scale a row."""

    config: ClassVar[str] = "Float8WeightOnlyConfig"

    def options(self, torchao: ModuleType) -> dict[str, object]:
        """Return nothing but that the compiler's settings, which are global, are left alone."""
        return {"set_inductor_config": False}

    def weight(self, chosen: nn.Parameter) -> LowBitWeight:
        """Return the bytes as codes of 256 levels."""
        codes, scale = _part(chosen, "qdata").view(torch.uint8), _part(chosen, "scale")
        every = torch.arange(256, dtype=torch.uint8, device=codes.device)
        levels = every.view(torch.float8_e4m3fn).float().nan_to_num()  # two codes stand for no number
        return LowBitWeight.of(codes, scale, torch.zeros_like(scale, dtype=torch.float16), 8, levels)


def imported() -> ModuleType:
    """Return ``torchao.quantization``; TorchaoError if it is not installed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it tells of kernels that it has not, and of torch's that it uses
    try:
        import torchao.quantization as quantization
    except ImportError as error:
        raise TorchaoError('this quantiser needs torchao: pip install "clbench[torchao]"') from error
    finally:
        logging.disable(before)
    found: ModuleType = quantization
    return found


def _even(chosen: nn.Parameter, bits: int) -> LowBitWeight:
    """Return evenly spaced codes, which torchao counts from -2^(b-1) on."""
    lowest = -(2 ** (bits - 1))
    codes, scale = _part(chosen, "qdata").short() - lowest, _part(chosen, "scale")
    zero = _part(chosen, "zero_point").short() - lowest
    return LowBitWeight.of(codes, scale, zero.half(), bits)  # an integer up to 255: exact in half precision


def _part(chosen: nn.Parameter, name: str) -> Tensor:
    """Return a tensor that torchao's weight is made of."""
    part: Tensor = getattr(chosen, name)
    return part.detach()
