"""Let the backbone of a run, or of a form that it also predicts in, go on with fewer tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from clbench import compress
from clbench.backbones.backbone import NEEDS_ALL_TOKENS, Backbone
from clbench.compress import Compressor
from clbench.compress.compressed import Compressed
from clbench.compress.parts.passing import Passing
from clbench.compress.parts.places import CompressError
from clbench.options import build
from clbench.outside.mistakes import explained
from clbench.outside.reading import read_bytes
from clbench.records.spec import Part, RunSpec

FILE = "compress.safetensors"  # of a record: the plug-in, where there is one


def compressor_of(part: Part) -> Compressor:
    """Return the compressor that a spec names."""
    return build(compress.get(part.name), "compress", part.options)


def plugin_of(part: Part, files: Mapping[str, bytes]) -> bytes | None:
    """Return what the plug-in's file held when the run was begun, or holds now; None where there is none."""
    file = compressor_of(part).plugin_file
    if not file:
        return None
    return files[FILE] if FILE in files else read_bytes(Path(file))


def compressed(
    part: Part, backbone: Backbone, plugin: bytes | None, *, is_folded: bool = False
) -> Compressed:
    """Return the form of a backbone in the place of one that it may have.

    ``is_folded``: what the plug-in does is in the weights already.
    """
    before = form_of(backbone)
    if before is not None:
        before.detach()
    compressor = compressor_of(part)
    with explained(compressor):
        return compressor.compress(backbone, plugin, is_folded=is_folded)


def refuse_misfits(spec: RunSpec, backbone: Backbone) -> None:
    """Raise CompressError in one line, before anything is learnt, where a variant cannot be compressed.

    A variant of a strategy's own may be rid of the modules that stand in the way.
    """
    for variant in spec.variants:
        if variant.compress is None:
            continue
        moves = any(compressor_of(variant.compress).steps(backbone, Passing()))
        for module in backbone.attached if moves and not variant.own else ():
            if module.needs_all_tokens:
                raise CompressError(f"variant {variant.name}: {module.name} {NEEDS_ALL_TOKENS}")


@contextmanager
def all_tokens(backbone: Backbone) -> Iterator[None]:
    """Let a backbone compute with all its tokens for a while, as one is calibrated block by block."""
    form = form_of(backbone)
    with nullcontext() if form is None else form.paused():
        yield


def form_of(backbone: Backbone) -> Compressed | None:
    """Return the form of fewer tokens that a backbone has, on or off."""
    forms = [form for form in backbone.compressed if isinstance(form, Compressed)]
    return forms[0] if forms else None
