"""Let Hugging Face peft make its layers for linear layers of a backbone, and put them in order.

S. Mangrulkar et al., "PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods", 2022. peft replaces
the linear layers of a model by its own. It is given a model of copies, so the backbone is never touched.

What a layer of peft holds frozen becomes a buffer. It is stored only where it was computed from the weights,
since another machine may compute other signs; what a seed gives is drawn again, as the papers have it.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from clbench.errors import UserError
from clbench.petl.parts.peft_branch import Place

ADAPTER = "default"  # what peft calls an adapter that is not named
START = "start"  # the adapter that holds what the first one starts from


class PeftError(UserError, ValueError):
    """peft cannot adapt these layers with these options."""


class Method(Protocol):
    """What is to be known of a method of peft, to let peft make its layers."""

    @property
    def sites(self) -> str:
        """The sites that it adapts, with commas."""

    @property
    def method(self) -> str:
        """Its name in peft's registry."""

    @property
    def stored(self) -> tuple[str, ...]:
        """What it computes from the weights and holds frozen."""

    @property
    def subtracts_start(self) -> bool:
        """Whether the weight loses the factors that it starts from."""

    def options(self) -> dict[str, Any]:
        """Return the keywords of peft's own config."""


def peft_layers(method: Method, places: list[Place]) -> tuple[list[nn.Module], tuple[nn.Module, ...]]:
    """Return peft's layer for each place, and the parts that several of them share."""
    with _without_asides():
        layers = _injected(method, places)
    for layer, place in zip(layers, places, strict=True):
        if method.subtracts_start:
            _subtract_start(layer)
        else:
            _check_untouched(layer, place, method.method)
        _keep_frozen(layer, method.stored)
    return layers, _take_shared(layers)


def _injected(method: Method, places: list[Place]) -> list[Any]:
    """Return what peft puts in the place of copies of the layers."""
    from peft import mapping
    from peft.utils import PeftType

    peft_type = PeftType(method.method)
    blocks = [nn.ModuleDict({place.name.replace(".", "-"): place.copied()}) for place in places]
    model = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Invalid `")  # peft would take another value instead
            config_class = cast("Any", mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft_type])
            config = config_class(target_modules=r"blocks\.\d+\..*", **method.options())
            mapping.PEFT_TYPE_TO_TUNER_MAPPING[peft_type](model, config, ADAPTER)
    except (ValueError, AssertionError, UserWarning) as error:
        reason = str(error).strip().splitlines()[0]
        raise PeftError(f"peft cannot put {method.method} on {places[0].site.name}: {reason}") from error
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise PeftError(f"{method.method} of peft has nothing to train on {method.sites}")
    return [layer for block in blocks for layer in block.values()]


def _subtract_start(layer: Any) -> None:
    """Subtract the low-rank product that a LoRA starts from, as a second, frozen adapter.

    Instead of s B A beside the weight W - s B0 A0, there is s (B A - B0 A0) beside the weight W.
    """
    from peft import LoraConfig

    layer.update_layer(START, layer.r[ADAPTER], layer.lora_alpha[ADAPTER], config=LoraConfig())
    layer.scaling[START] = -layer.scaling[ADAPTER]
    layer.set_adapter([ADAPTER, START])
    for factors in (layer.lora_A, layer.lora_B):
        factors[START] = copy.deepcopy(factors[ADAPTER]).requires_grad_(False)


def _check_untouched(layer: Any, place: Place, method: str) -> None:
    """Raise PeftError if peft has changed the copy of a weight: the backbone's own has not changed."""
    weight = layer.get_base_layer().weight
    if not weight.is_meta and not torch.equal(weight, place.weight.to(weight)):
        raise PeftError(f"this release of peft takes {method}'s start off the weight, which is not expected")


def _keep_frozen(layer: nn.Module, stored: tuple[str, ...]) -> None:
    """Make buffers of the frozen tensors, stored where their names begin with one of ``stored``."""
    from peft.tuners._buffer_dict import BufferDict

    del layer._modules["base_layer"]
    for name, value in list(vars(layer).items()):
        values = value.values() if isinstance(value, dict) and not name.startswith("_") else ()
        if any(isinstance(tensor, Tensor) for tensor in values):
            delattr(layer, name)
            layer.add_module(name, BufferDict(value))
    for path, module in layer.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
        for name, buffer in list(module.named_buffers(recurse=False)):
            is_stored = f"{path}.{name}".lstrip(".").startswith(stored)
            module.register_buffer(name, buffer, persistent=is_stored)


def _take_shared(layers: list[Any]) -> tuple[nn.Module, ...]:
    """Return the parts that several layers use; these refer to them from then on, but do not hold them."""
    users = Counter(id(part) for layer in layers for part in layer.children())
    shared: dict[int, nn.Module] = {}
    for layer in layers:
        for name, part in list(layer.named_children()):
            if users[id(part)] > 1:
                del layer._modules[name]
                vars(layer)[name] = shared[id(part)] = part
    return tuple(shared.values())


@contextmanager
def _without_asides() -> Iterator[None]:
    """Keep BOFT from compiling a CUDA extension for each layer, and SHiRA from a warning of torch's.

    The extension is for more than one butterfly factor. The warning wants a default to be said aloud.
    """
    from peft.tuners.boft import layer as boft

    invariants: Any = torch.sparse.check_sparse_tensor_invariants
    if not invariants.is_enabled():
        invariants.disable()
    module = cast("Any", boft)
    extension, module._FBD_CUDA = module._FBD_CUDA, False
    try:
        yield
    finally:
        module._FBD_CUDA = extension
