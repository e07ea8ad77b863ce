"""Count bit operations: of each product, the bits of its two operands times its multiply-adds.

A product of which nothing is quantised has 32 x 32 bits, whatever type it is computed in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Site
from clbench.evaluate.flops import Counter
from clbench.quant.low_bit_layers import LowBitConv2d, LowBitLinear
from clbench.quant.parts.places import OPERANDS
from clbench.quant.parts.rounding import Rounding
from clbench.quant.quantised import Quantised, form_of

FLOAT = 32  # bits of an operand that is not quantised
PRODUCTS = (OPERANDS[:2], OPERANDS[2:])  # of an attention


@dataclass
class Counted:
    """What was multiplied in quantised products."""

    macs: int = 0
    bit_operations: int = 0

    def add(self, macs: int, bits: tuple[int, int]) -> None:
        """Add the multiply-adds of a product, whose operands have so many bits."""
        self.macs += macs
        self.bit_operations += macs * bits[0] * bits[1]


def bit_operations(backbone: Backbone, predict: Callable[[], object]) -> int:
    """Return the bit operations of a prediction that makes use of a backbone; it is made once."""
    counter = Counter()
    with low_bit_products(form_of(backbone)) as counted, counter:
        predict()
    return (counter.total // 2 - counted.macs) * FLOAT**2 + counted.bit_operations


@contextmanager
def low_bit_products(form: Quantised | None) -> Iterator[Counted]:
    """Count the products of a quantised backbone while the block lasts."""
    counted, handles = Counted(), []
    if form is not None:
        handles = [layer.register_forward_hook(_layer_hook(counted)) for layer in form.layers.values()]
        handles += [handle for block in form.attention() for handle in _attention_hooks(block, counted)]
    try:
        yield counted
    finally:
        for handle in handles:
            handle.remove()


def _layer_hook(counted: Counted) -> Callable[[nn.Module, Any, Tensor], None]:
    def note(layer: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(layer, (LowBitLinear, LowBitConv2d))
        bits = layer.stored.bits, layer.rounding.bits if layer.rounding else FLOAT
        counted.add(output.numel() * layer.stored.columns, bits)

    return note


def _attention_hooks(sites: dict[str, Site], counted: Counted) -> list[Any]:
    """Watch the operands of one attention; each product is counted when its second operand comes."""
    shapes: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _, __, output: shapes.__setitem__(name, output)

    def multiply(_: nn.Module, __: object, probs: Tensor) -> None:
        shapes["probs"] = probs
        for first, second in PRODUCTS:
            counted.add(probs.numel() * shapes[second].shape[-1], (_bits(sites[first]), _bits(sites[second])))
        shapes.clear()

    handles = [sites[name].register_forward_hook(note(name)) for name in OPERANDS if name != "probs"]
    return [*handles, sites["probs"].register_forward_hook(multiply)]


def _bits(site: Site) -> int:
    return FLOAT if site.rounding is None else cast("Rounding", site.rounding).bits
