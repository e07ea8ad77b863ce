"""Put into a wheel what lies outside the package: plug-in files, and the kernels, where a C compiler is."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("clbench", "quant", "kernels")


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling leaves its config type open
    """Copies the plug-in files and compiles the kernels."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name each file that goes into the wheel; an editable install needs the kernels only."""
        self._folder = tempfile.TemporaryDirectory()
        is_editable = version == "editable"
        library = (
            Path(self.root, KERNELS, "low_bit.so") if is_editable else Path(self._folder.name, "low_bit.so")
        )
        if self._compiles(library):
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        if is_editable:
            return
        if library.is_file():
            build_data["force_include"][str(library)] = str(KERNELS / library.name)
        for kind in ("strategies", "streams"):
            for code in sorted(Path(self.root, kind).glob("[!_.]*.py")):
                for file in (code, code.with_suffix(".table.toml")):  # a file's table of classes goes with it
                    if file.is_file():
                        build_data["force_include"][str(file)] = f"clbench/{kind}/{file.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled; it is in the wheel."""
        self._folder.cleanup()

    def _compiles(self, library: Path) -> bool:
        """Compile the kernels, where that can be done; without them clbench does the same, slower."""
        compiling = self._module("compiling")
        compiler = compiling.Compiler.here()
        if compiler is None:
            self.app.display_warning("no C compiler: without kernels for low-bit weights")
            return False
        try:
            made = compiler.compile(library)
        except OSError as error:
            self.app.display_warning(f"without kernels for low-bit weights: {error}")
            return False
        self.app.display_info(f"kernels for low-bit weights: {', '.join(made)}")
        return True

    def _module(self, name: str) -> Any:
        """Return a module of the kernels' folder, without importing clbench, which is not installed yet."""
        spec = importlib.util.spec_from_file_location(name, Path(self.root, KERNELS, f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module
