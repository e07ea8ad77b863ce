"""Take any network of timm by its name, with the weights that the Hugging Face hub holds for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
from huggingface_hub import constants
from safetensors import SafetensorError
from torch import nn

from clbench.backbones import names
from clbench.backbones.architecture import Architecture
from clbench.backbones.backbone import Preprocessing
from clbench.backbones.weights import WeightsError
from clbench.registry import UnknownNameError, did_you_mean


class TimmArchitecture(Architecture):
    """A network of timm's, by its name there, with or without the tag of its weights."""

    def __init__(self, name: str) -> None:
        """Look the name up; UnknownNameError if timm has none such."""
        architecture, _, tag = name.partition(".")
        if not timm.is_model(architecture):
            near = did_you_mean(architecture, [*names(), *timm.list_models()])
            raise UnknownNameError(f"no backbone named {name!r}{near} (see: clbench list backbones)")
        tags = timm.list_pretrained(f"{architecture}*")
        if tag and name not in tags:
            near = did_you_mean(name, tags)
            raise UnknownNameError(f"{architecture} has no weights tagged {tag!r}{near}")
        self.name = name

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        model: nn.Module = timm.create_model(self.name, num_classes=0)
        return model

    def published(self) -> tuple[nn.Module, str]:
        """Return the network with the weights of the hub or of its cache; WeightsError if in neither."""
        try:
            with _offline_where_the_hub_is_out_of_reach():
                model = timm.create_model(self.name, num_classes=0, pretrained=True)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise WeightsError(
                f"cannot get the published weights of {self.name} ({type(error).__name__}: {reason:.80});"
                f" give a file with --set backbone.weights=FILE.safetensors, put {self.name}.safetensors into"
                " the --data-dir, or take random ones with --set backbone.weights=none"
            ) from error
        return model, f"timm {model.pretrained_cfg['architecture']}.{model.pretrained_cfg['tag']}"

    def file_names(self) -> tuple[str, ...]:
        """Return the name as given, and with the tag of the weights that timm takes where none is given."""
        architecture, _, tag = self.name.partition(".")
        config = timm.get_pretrained_cfg(architecture)
        default = f"{architecture}.{config.tag}" if config and config.tag else architecture
        return tuple(dict.fromkeys([self.name, *([] if tag else [default])]))

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return what the weights were trained with, by timm's account."""
        return expected_images(model)


def expected_images(model: nn.Module) -> Preprocessing:
    """Return what a model of timm's was trained with, by timm's account."""
    config = timm.data.resolve_model_data_config(model)
    is_bilinear = config["interpolation"] == "bilinear"
    return Preprocessing(
        image_size=config["input_size"][-1],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop=config["crop_pct"],
        interpolation="bilinear" if is_bilinear else "bicubic",
    )


@contextmanager
def _offline_where_the_hub_is_out_of_reach() -> Iterator[None]:
    """Keep the hub's client, where its host has no address, from trying again for most of a minute."""
    before = constants.HF_HUB_OFFLINE
    if not getproxies():
        try:
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
