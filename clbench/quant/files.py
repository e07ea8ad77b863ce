"""Write what a quantiser made of a backbone as safetensors, and put it into a backbone again."""

from __future__ import annotations

import json
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.quant import Quantiser
from clbench.quant.quantised import Quantised, QuantisedError, restored

ABOUT = "roundings"  # in the file's header


def to_bytes(quantised: Quantised) -> bytes:
    """Return the low-bit weights, and what rounds which activation."""
    tensors = {name: tensor.cpu() for name, tensor in quantised.state().items()}
    return save(tensors, metadata={ABOUT: json.dumps(quantised.described(), sort_keys=True)})


def from_bytes(data: bytes, backbone: Backbone, quantiser: Quantiser, source: str) -> Quantised:
    """Quantise a backbone as it was; QuantisedError in one line where ``source`` holds something else."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        tensors, described = load(data), str(header["__metadata__"][ABOUT])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _unfit(backbone, source) from error
    return put_back(tensors, described, backbone, quantiser, source)


def put_back(
    tensors: Mapping[str, Tensor], described: str, backbone: Backbone, quantiser: Quantiser, source: str
) -> Quantised:
    """Do so with tensors, and the text that says what rounds which activation."""
    try:
        about = {place: (str(kind), int(bits)) for place, (kind, bits) in json.loads(described).items()}
        return restored(backbone, quantiser, about, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unfit(backbone, source) from error


def _unfit(backbone: Backbone, source: str) -> QuantisedError:
    return QuantisedError(
        f"cannot quantise {backbone.name} as it was: {source} does not fit it, or is damaged"
    )
