"""Put the files of strategies/ and streams/ inside the clbench package of a wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PluginFolders(BuildHookInterface):  # type: ignore[type-arg]  # hatchling leaves its config type open
    """Copies the plug-in files when a wheel is built; a checkout finds them where they are."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name each file that goes into the wheel; an editable install needs none."""
        if version == "editable":
            return
        for kind in ("strategies", "streams"):
            for code in sorted(Path(self.root, kind).glob("[!_.]*.py")):
                for file in (code, code.with_suffix(".table.toml")):  # a file's table of classes goes with it
                    if file.is_file():
                        build_data["force_include"][str(file)] = f"clbench/{kind}/{file.name}"
