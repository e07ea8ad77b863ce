"""Examine this machine: what a run needs, what is there, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from clbench import backbones, devices, streams
from clbench.cli.listing import REGISTRIES
from clbench.data.tasks import Places
from clbench.quant.kernels import library
from clbench.records.environment import PACKAGES, package_version
from clbench.registry import entry_points_of

GIGABYTE = 1e9
STYLES = {"ok": "green", "optional": "yellow", "missing": "bold red"}
EXPANDED = "weights of few bits are expanded, and multiplied by torch"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    topic: str
    name: str
    told: str
    state: Literal["ok", "optional", "missing"] = "ok"  # missing: no run can do without it


@dataclass(frozen=True)
class Findings:
    """All of it; rich prints it as a table."""

    found: list[Finding]

    @property
    def lacks_essentials(self) -> bool:
        """Whether something is missing that the embedded default needs."""
        return any(each.state == "missing" for each in self.found)

    def __rich__(self) -> RenderableType:
        """Return one row a finding, under its topic's name."""
        table = Table.grid(padding=(0, 2))
        for no_wrap in (True, True, True, False):
            table.add_column(no_wrap=no_wrap, overflow="fold")
        topic = ""
        for each in self.found:
            mark = Text("-" if each.state == "optional" else each.state, style=STYLES[each.state])
            table.add_row(
                Text("" if each.topic == topic else each.topic), Text(each.name), mark, Text(each.told)
            )
            topic = each.topic
        return table


def examine(places: Places) -> Findings:
    """Look for everything; nothing is downloaded or written."""
    return Findings(
        [
            *_machine(),
            *_packages(),
            *_devices(),
            *_kernels(),
            *_folders(places),
            *_data(places),
            *_weights(places),
            *_plugins(),
        ]
    )


def _machine() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    yield Finding("machine", "python", platform.python_version())
    yield Finding("machine", "system", platform.platform())
    yield Finding("machine", "cores", str(os.cpu_count()))
    yield Finding("machine", "memory", f"{_gigabytes(memory.total)}, {_gigabytes(memory.available)} free")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        version = package_version(name)
        if version:
            yield Finding("packages", name, version)
        elif name == "clbench":
            yield Finding("packages", name, "run from a source tree, not installed", "optional")
        else:
            yield Finding("packages", name, f"not installed; pip install {name}", "missing")


def _devices() -> Iterator[Finding]:
    for name in devices.available():
        bf16 = (
            "computes in bf16" if devices.has_bf16(name) else "no bf16 of its own: --precision bf16 is slow"
        )
        yield Finding("devices", name, f"{devices.describe(name)}; {bf16}")


def _kernels() -> Iterator[Finding]:
    """Tell how weights of few bits are multiplied, and what of it is missing."""
    if library.library() is None:
        told = (
            f"{EXPANDED}; where a C compiler is, python -m clbench.quant.kernels.compiling makes it quicker"
        )
        yield Finding("kernels", "portable", told, "optional")
        return
    try:
        used = library.chosen()
    except library.KernelError as error:
        yield Finding("kernels", library.VARIABLE, str(error), "missing")
        return
    if used is None:
        yield Finding("kernels", "portable", EXPANDED, "optional")
    for name in library.SETS:
        state = library.state_of(name)
        if state == library.RUNS:
            bits = ", ".join(str(bits) for bits in (1, 2, 3, 4, 8) if library.has_any_way(name, bits))
            yield Finding(
                "kernels", name, f"{'used' if name == used else 'runs, too'}: weights of {bits} bits"
            )
        elif state == library.BUILT:
            yield Finding("kernels", name, "compiled, but this processor lacks what it needs", "optional")


def _folders(places: Places) -> Iterator[Finding]:
    cache = places.cache_dir
    existing = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = _gigabytes(shutil.disk_usage(existing).free)
    if os.access(existing, os.W_OK):
        yield Finding("folders", "cache", f"{cache}, {free} free")
    else:
        yield Finding("folders", "cache", f"{cache} cannot be written; make it writable", "missing")
    if places.data_dir is None:
        yield Finding("folders", "data", "none named; --data-dir or CLBENCH_DATA names one", "optional")
    else:
        yield Finding("folders", "data", str(places.data_dir))


def _data(places: Places) -> Iterator[Finding]:
    """Look for each stream's data under the names that its card gives."""
    roots = [*([places.data_dir] if places.data_dir else []), places.cache_dir / "downloads"]
    for stream in streams.names():
        preset = streams.registry.card(stream).preset
        names = str(preset.get("data", "")).split()
        found = [root / name for root in roots for name in names if (root / name).exists()]
        if found:
            yield Finding("data", stream, str(found[0]))
        elif names:
            how = "downloaded when first used" if preset.get("downloads") else "put one into the --data-dir"
            yield Finding("data", stream, f"not found: {', '.join(names)}; {how}", "optional")
        elif not preset.get("argument"):
            yield Finding("data", stream, "embedded")


def _weights(places: Places) -> Iterator[Finding]:
    file = Path(backbones.__file__).parent / "weights" / "vit-micro.safetensors"
    if file.is_file():
        yield Finding("weights", "vit-micro", f"{file.stat().st_size / 1e6:.1f} MB, embedded")
    else:
        yield Finding("weights", "vit-micro", f"{file} is not there; install clbench again", "missing")
    for beside in sorted(places.data_dir.glob("*.safetensors")) if places.data_dir else []:
        yield Finding("weights", beside.stem, f"{beside}, for a backbone of that name")
    how = (
        "downloaded when first used; or <name>.safetensors in the --data-dir, or --set backbone.weights=FILE"
    )
    yield Finding("weights", "timm's", how, "optional")


def _plugins() -> Iterator[Finding]:
    for registry in REGISTRIES.values():
        for name, origin in registry.plugins().items():
            yield Finding("plug-ins", name, f"{registry.kind}: {origin}")
    for name, point in sorted(entry_points_of("metrics").items()):
        yield Finding("plug-ins", name, f"metrics: {point.value}")


def _gigabytes(size: float) -> str:
    return f"{size / GIGABYTE:.1f} GB"
