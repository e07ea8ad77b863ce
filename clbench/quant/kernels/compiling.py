"""Compile the kernels: when a wheel is built, or an editable install is made.

Each instruction set has files of its own and the flags for it; what may run where is found out at run time.
A compiler that does not know an instruction set leaves its files out. Nothing but the standard library is
needed, and nothing of clbench: the build backend runs this file by itself. To compile them later, or anew:

    python -m clbench.quant.kernels.compiling
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

LIBRARY = "low_bit.so"
SOURCES = Path(__file__).parent / "c"
PLAIN = ("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra")
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vbmi", "-mavx512vnni")
COMMON = ("layers", "order", "processor", "products")
# Of a kind of machine, of an instruction set: its files, and their flags.
SETS: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "x86_64": {
        "avx2": (("avx2_lookup", "avx2_bytes"), AVX2),
        "avx512": (("avx512_lookup", "avx512_bytes"), AVX512),
    },
    "aarch64": {"neon": (("neon",), ())},
}
SAME = {"AMD64": "x86_64", "arm64": "aarch64"}  # other names of a machine


@dataclass(frozen=True)
class Compiler:
    """A C compiler's command, for a kind of machine."""

    command: tuple[str, ...]
    machine: str

    @classmethod
    def here(cls) -> Compiler | None:
        """Return the one that CC names, or cc; None where there is none, or no kernel for this machine."""
        command = tuple(shlex.split(os.environ.get("CC", ""))) or ("cc",)
        machine = SAME.get(platform.machine(), platform.machine())
        is_known = machine in SETS and sys.platform in ("linux", "darwin")
        return cls(command, machine) if is_known and shutil.which(command[0]) else None

    def compile(self, out: Path) -> list[str]:
        """Write a shared library, and return the instruction sets in it; OSError where that fails."""
        with tempfile.TemporaryDirectory() as folder:
            objects = self.objects(Path(folder))
            self._run("-shared", "-o", f"{folder}/{out.name}", *map(str, objects))
            temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
            shutil.copyfile(Path(folder, out.name), temporary)
            os.replace(temporary, out)
            names = {path.stem for path in objects}
        return [set_ for set_, (files, _) in SETS[self.machine].items() if names.issuperset(files)]

    def objects(self, folder: Path, *, extra: tuple[str, ...] = ()) -> list[Path]:
        """Compile each file into a folder, those of instruction sets that this compiler knows."""
        made = [set_ for set_ in SETS[self.machine] if self._makes(set_, folder, extra)]
        for name in COMMON:
            self._object(name, folder, *(f"-DLB_{set_.upper()}" for set_ in made), *extra)
        files = [name for set_ in made for name in SETS[self.machine][set_][0]]
        return [folder / f"{name}.o" for name in (*COMMON, *files)]

    def _makes(self, set_: str, folder: Path, extra: tuple[str, ...]) -> bool:
        """Compile the files of an instruction set; return whether this compiler knows it."""
        files, flags = SETS[self.machine][set_]
        try:
            for name in files:
                self._object(name, folder, *flags, *extra)
        except OSError:
            return False
        return True

    def _object(self, name: str, folder: Path, *flags: str) -> None:
        self._run(*flags, "-c", str(SOURCES / f"{name}.c"), "-o", str(folder / f"{name}.o"))

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([*self.command, *PLAIN, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{self.command[0]} says: {done.stderr.strip() or done.returncode}")


def main() -> None:
    """Compile the kernels into the folder of this file."""
    compiler = Compiler.here()
    if compiler is None:
        sys.exit(
            f"there is no C compiler {os.environ.get('CC') or 'cc'}, or no kernel for {platform.machine()}"
        )
    try:
        made = compiler.compile(Path(__file__).with_name(LIBRARY))
    except OSError as error:
        sys.exit(f"the kernels were not compiled: {error}")
    print(f"compiled for {', '.join(made)}")


if __name__ == "__main__":
    main()
