"""Write what ``clbench list`` prints: the names of each kind, with a line each.

Listing reads the registries' cards and imports no component.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clbench import backbones, compress, petl, pretrain, quant, strategies, streams
from clbench.registry import Registry, UnknownNameError, did_you_mean, entry_points_of

REGISTRIES: dict[str, Registry[Any]] = {
    "streams": streams.registry,
    "strategies": strategies.registry,
    "backbones": backbones.registry,
    "petl": petl.registry,
    "quant": quant.registry,
    "compress": compress.registry,
    "pretrain": pretrain.registry,
}
KINDS = (*REGISTRIES, "metrics")
SECTION_OF = {
    "streams": "stream",
    "strategies": "strategy",
    "backbones": "backbone",
    "petl": "petl",
    "quant": "quant",
    "compress": "compress",
    "pretrain": "pretrain",
}
# what a user may write: the kind in the singular, and as it is listed
OWN_KINDS = {
    "strategy": "strategies",
    "stream": "streams",
    "petl": "petl",
    "quant": "quant",
    "compress": "compress",
    "metric": "metrics",
}
HINTS = {
    "streams": "--stream NAME; a file of your own: --stream path/to/file.py:Class",
    "strategies": "--strategy NAME or NAME-PETL, as in lae-lora; a file of your own: path/to/file.py:Class",
    "backbones": "--backbone NAME, or any of timm's, as in vit_tiny_patch16_224 or"
    " vit_base_patch16_224.augreg_in21k (architecture.weights); ViT, Swin, ConvNeXt, ResNet and"
    " MobileNet (EfficientNet) families",
    "petl": "--petl NAME: the module that is trained in the frozen backbone; measured with"
    " clbench list petl --backbone NAME",
    "quant": "--quant NAME:bits=4: the frozen backbone computes with few bits while it learns;"
    " --variant NAME:bits=4: the learner predicts so, too",
    "compress": "--compress NAME:removed=8: the backbone learns and predicts with fewer tokens;"
    " --variant NAME:removed=8: the learner predicts so, too; measured with"
    " clbench list compress --backbone NAME",
    "pretrain": "clbench pretrain NAME --backbone NAME --stream NAME --out FILE.safetensors: makes a file"
    " that runs take",
    "metrics": "computed at the end of every run, in metrics.json of its record; one of your own:"
    " --set run.metrics=path/to/file.py:function",
}


def listing(kind: str | None = None) -> RenderableType:
    """Return the names of one kind, or of all, each with its summary; UnknownNameError for other kinds."""
    if kind is not None and kind not in KINDS:
        raise UnknownNameError(
            f"nothing to list called {kind!r}{did_you_mean(kind, KINDS)} (allowed: {', '.join(KINDS)})"
        )
    wanted = KINDS if kind is None else (kind,)
    return Group(*(part for each in wanted for part in _section(each)))


def _section(kind: str) -> Iterator[RenderableType]:
    yield Text.assemble((kind, "bold"), f"  ({HINTS[kind]})")
    if kind == "metrics":
        yield from _families()
    else:
        yield indented(rows(_summaries(REGISTRIES[kind]).items()))


def _families() -> Iterator[RenderableType]:
    """Give the metrics by the file that each stands in, under that file's first line."""
    from clbench.evaluate import METRICS

    families: dict[str, list[tuple[str, str]]] = {}
    for name, metric in METRICS.items():
        families.setdefault(metric.family_summary, []).append((name, metric.summary))
    for name, point in sorted(entry_points_of("metrics").items()):
        if name not in METRICS:
            families.setdefault("Of installed packages", []).append((name, _of_package(point.value)))
    for about, members in families.items():
        yield Padding(Text(about, style="italic"), (0, 0, 0, 2), expand=False)
        yield indented(rows(members))


def _summaries(registry: Registry[Any]) -> dict[str, str]:
    plugins = registry.plugins()
    return {
        name: _of_package(plugins[name]) if name in plugins else registry.card(name).summary.replace("``", "")
        for name in registry.names()
    }


def _of_package(value: str) -> str:
    """Tell where an entry point leads; nothing is imported for a list, which a broken package would end."""
    return f"of an installed package: {value}"


def indented(what: RenderableType) -> Padding:
    """Set something a little to the right, with a line below it."""
    return Padding(what, (0, 0, 1, 2), expand=False)


def rows(cells: Iterable[tuple[str, ...]]) -> Table:
    """Lay out rows of texts in columns, of which the first is never broken."""
    table = Table.grid(padding=(0, 2))
    texts = list(cells)
    for number in range(max(map(len, texts), default=0)):
        table.add_column(no_wrap=number == 0, overflow="fold")
    for row in texts:
        table.add_row(*map(Text, row))
    return table
