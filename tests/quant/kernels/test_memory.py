"""Kernels touch no memory that is not theirs, and NEON's do the same as the others.

A program is compiled with them (driver.c): once with an address sanitizer for this machine, and once for
AArch64, which an emulator runs.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clbench.quant.kernels import library
from clbench.quant.kernels.compiling import PLAIN, SOURCES, Compiler
from clbench.quant.kernels.kernel_layer import Way
from clbench.quant.parts.lookup import multiplied_by_lookup
from clbench.quant.parts.low_bit_weight import LowBitWeight

SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
ARM_COMPILER, ARM_EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
CASES = [  # rows, columns, groups, bits, tokens
    (16, 64, 1, 2, 1),
    (33, 100, 1, 3, 5),
    (50, 70, 3, 4, 9),
    (1, 5, 1, 1, 2),
    (17, 96, 1, 2, 70),
    (40, 40, 5, 4, 1),
    (7, 65, 1, 1, 17),
    (20, 64, 1, 2, 0),
]


def program(folder: Path, compiler: Compiler, *flags: str) -> Path:
    """Compile the driver together with the kernels."""
    objects = compiler.objects(folder, extra=flags)
    path = folder / "driver"
    source = Path(__file__).with_name("driver.c")
    command = [
        *compiler.command,
        *PLAIN,
        *flags,
        f"-I{SOURCES}",
        str(source),
        *map(str, objects),
        "-o",
        str(path),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return path


def run(command: list[str], name: str, way: Way, case: tuple[int, ...], half: bool) -> tuple[Tensor, ...]:
    """Return results (N, M), what was to come out, planes and weight, and those that went in."""
    rows, columns, groups, bits, tokens = case
    random = torch.Generator().manual_seed(0)
    dtype = torch.float16 if half else torch.float32
    scale = (torch.rand(rows, groups, generator=random) + 0.1).to(dtype)
    zero = (torch.rand(rows, groups, generator=random) * 2**bits).to(dtype)
    codes = torch.randint(2**bits, (rows, columns), generator=random)
    stored = LowBitWeight.of(codes, scale, zero, bits)
    x, bias = torch.randn(tokens, columns, generator=random), torch.randn(rows, generator=random)
    width = -(-columns // groups)
    chunk = 32 if width <= 32 else 64
    chunks = groups * -(-width // chunk)
    of_values = chunks * tokens * chunk * (4 if way is Way.LOOK_UP else 1)
    numbers = [int(way), rows, columns, groups, bits, int(half), tokens, of_values, chunks]
    sent = b"".join(tensor.numpy().tobytes() for tensor in (stored.planes, scale, zero, x, bias))
    done = subprocess.run([*command, name, *map(str, numbers)], input=sent, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    said = memoryview(done.stdout)[of_values + 4 * tokens * chunks * rows :]
    of_result, of_planes = 4 * tokens * rows, stored.planes.numel()
    result = read(said[:of_result], np.float32).view(tokens, rows)
    planes = read(said[of_result : of_result + of_planes], np.uint8).view_as(stored.planes)
    weight = read(said[of_result + of_planes :], np.float32).view(rows, columns)
    assert torch.equal(planes, stored.planes)
    assert torch.equal(weight, stored.expanded())
    if way is Way.LOOK_UP and tokens:
        return result, multiplied_by_lookup(x, stored) + bias
    return result, x @ stored.expanded().T + bias


def read(said: memoryview, kind: type[np.generic]) -> Tensor:
    return torch.from_numpy(np.frombuffer(said, kind).copy())


def check(command: list[str], name: str, way: Way, bits: Sequence[int]) -> None:
    for case in CASES:
        for own in bits:
            found, wanted = run(command, name, way, (*case[:3], own, case[4]), half=own % 2 == 0)
            close = 1e-5 if way is Way.LOOK_UP else 3e-2
            assert float((found - wanted).norm()) <= close * float(wanted.norm()), case


@pytest.mark.slow
@pytest.mark.skipif(Compiler.here() is None, reason="needs a C compiler")
def test_no_memory_is_touched_that_is_not_theirs(tmp_path: Path) -> None:
    compiler = Compiler.here()
    assert compiler is not None
    command = [str(program(tmp_path, compiler, *SANITIZED))]
    for name in library.running():
        for way in (Way.LOOK_UP, Way.IN_BYTES):
            check(command, name, way, [bits for bits in (1, 2, 3, 4, 8) if library.can(name, way, bits)])


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which(ARM_COMPILER) and shutil.which(ARM_EMULATOR)) and platform.machine() != "aarch64",
    reason=f"needs {ARM_COMPILER} and {ARM_EMULATOR}",
)
def test_neon_does_the_same(tmp_path: Path) -> None:
    path = program(tmp_path, Compiler((ARM_COMPILER,), "aarch64"), "-static")
    check([ARM_EMULATOR, str(path)], "neon", Way.LOOK_UP, (1, 2, 3, 4))
