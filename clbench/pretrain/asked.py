"""Hold what a command asks for: two that ask for the same make the same file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from clbench import backbones, pretrain, streams
from clbench.backbones import BackboneOptions
from clbench.options import build, complete
from clbench.pretrain import PretrainingMethod, with_recipe
from clbench.records.spec import Part


@dataclass(frozen=True)
class Asked:
    """A method, a backbone and a stream with all their options."""

    method: Part
    backbone: Part
    stream: Part
    seed: int
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        parts = {kind: getattr(self, kind) for kind in ("method", "backbone", "stream")}
        named = {kind: {"name": part.name, **part.options} for kind, part in parts.items()}
        return {**asdict(self), **named}

    def made_method(self) -> PretrainingMethod:
        """Return the method."""
        return build(pretrain.get(self.method.name), "pretrain", self.method.options)

    def backbone_options(self) -> BackboneOptions:
        """Return the options that the backbone is made with."""
        return build(BackboneOptions, "backbone", self.backbone.options)


def asked(
    method: str,
    *,
    backbone: str,
    stream: str,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Asked:
    """Return what is asked for with every default filled in.

    ``sections`` holds options by "pretrain", "backbone" and "stream". UserError in one line for what does not
    exist or fit.
    """
    chosen = {kind: dict((sections or {}).get(kind, {})) for kind in ("pretrain", "backbone", "stream")}
    component = pretrain.get(method)
    stream, argument = streams.split(stream)
    preset = backbones.registry.card(backbone).preset if backbone in backbones.names() else {}
    options = complete(
        BackboneOptions, "backbone", {**preset, **component.backbone_preset, **chosen["backbone"]}
    )
    own = complete(component, "pretrain", with_recipe(component, chosen["pretrain"]))
    images = complete(streams.get(stream), "stream", {**argument, **chosen["stream"]})
    return Asked(
        method=Part(name=method, options=own),
        backbone=Part(name=backbone, options=options),
        stream=Part(name=stream, options=images),
        seed=seed,
        device=device,
    )
