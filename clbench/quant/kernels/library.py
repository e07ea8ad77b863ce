"""Load the compiled kernels, and tell which instruction sets they can use here.

``CLBENCH_KERNELS`` names the instruction set: ``portable`` for none of them, else one of SETS; without it,
the best that runs here is taken. ``SET:WAY`` also pins the way to multiply (ways.py).

No threads are made: those of torch's own OpenMP runtime do the work.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ctypes import c_char_p, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

from clbench.errors import UserError
from clbench.quant.kernels.compiling import LIBRARY
from clbench.registry import did_you_mean

VARIABLE, PORTABLE = "CLBENCH_KERNELS", "portable"
SETS = ("avx512", "avx2", "neon")  # best first
WAYS = ("look-up", "in-bytes", "expanded")
FILE = Path(__file__).with_name(LIBRARY)
MISSING, BUILT, RUNS = range(3)  # what lb_has says

is_portable = ContextVar("is_portable", default=False)  # inside portable()


class KernelError(UserError, ValueError):
    """An instruction set that is asked for and cannot be used."""


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels; None where clbench was installed without them."""
    try:
        loaded = ctypes.CDLL(str(FILE))
    except OSError:
        return None
    loaded.lb_has.argtypes = [c_char_p]
    loaded.lb_can.argtypes = [c_char_p, c_int, c_int]
    loaded.lb_create.argtypes = [
        c_char_p,
        c_void_p,
        c_void_p,
        c_void_p,
        c_int,
        c_int64,
        c_int64,
        c_int,
        c_int64,
    ]
    loaded.lb_create.restype = c_void_p
    loaded.lb_free.argtypes = [c_void_p]
    loaded.lb_free.restype = None
    loaded.lb_bytes.argtypes = [c_void_p]
    loaded.lb_bytes.restype = c_int64
    loaded.lb_planes.argtypes = loaded.lb_expand.argtypes = [c_void_p, c_void_p]
    loaded.lb_planes.restype = loaded.lb_expand.restype = None
    loaded.lb_multiply.argtypes = [
        c_void_p,
        c_int,
        c_void_p,
        c_void_p,
        c_void_p,
        c_int64,
        c_int,
        c_void_p,
        c_void_p,
    ]
    _share_threads(loaded)
    return loaded


def state_of(name: str) -> int:
    """Return whether an instruction set is MISSING from the library, BUILT into it, or RUNS here."""
    loaded = library()
    return MISSING if loaded is None else int(loaded.lb_has(name.encode()))


def running() -> list[str]:
    """Return the instruction sets that can be used here, the best first."""
    return [name for name in SETS if state_of(name) == RUNS]


def chosen() -> str | None:
    """Return the instruction set that is used; None where none is. KernelError for one that cannot be."""
    return None if is_portable.get() else _wanted(os.environ.get(VARIABLE, ""))[0]


def pinned() -> str | None:
    """Return the way to multiply that is asked for, one of WAYS; None where the quickest is."""
    return _wanted(os.environ.get(VARIABLE, ""))[1]


@contextmanager
def portable() -> Iterator[None]:
    """Have weights expanded and multiplied by torch inside it, as in a graph that is run elsewhere."""
    before = is_portable.set(True)
    try:
        yield
    finally:
        is_portable.reset(before)


def in_words() -> str:
    """Return what is used as CLBENCH_KERNELS would ask for it."""
    name = chosen()
    return PORTABLE if name is None else os.environ.get(VARIABLE) or name


def kernels_for(bits: int) -> str | None:
    """Return the instruction set by which weights of so many bits are multiplied; None for none."""
    name = chosen()
    return name if name and has_any_way(name, bits) else None


def has_any_way(name: str, bits: int) -> bool:
    """Tell whether an instruction set that runs here multiplies weights of so many bits."""
    return any(can(name, way, bits) for way in range(2))


def can(name: str, way: int, bits: int) -> bool:
    """Tell whether an instruction set that runs here multiplies weights of so many bits in a way."""
    loaded = library()
    return loaded is not None and bool(loaded.lb_can(name.encode(), way, bits))


@cache
def _wanted(text: str) -> tuple[str | None, str | None]:
    """Return what SET or SET:WAY ask for."""
    here = running()
    name, _, way = text.partition(":")
    allowed = [PORTABLE, *here, *(f"{each}:{way}" for each in here for way in WAYS)]
    if text and text not in allowed:
        near = did_you_mean(text, allowed)
        raise KernelError(f"{VARIABLE}={text!r} does not run here{near} (here: {', '.join(allowed)})")
    if not name:
        return (here[0] if here else None), None
    return (None if name == PORTABLE else name), way or None


def _share_threads(loaded: ctypes.CDLL) -> None:
    """Hand the kernels the OpenMP runtime that torch uses; they work in one thread where it has none."""
    import torch

    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:  # a name is looked for in what that library was linked with, too
            runtime = ctypes.CDLL(str(folder / name))
            functions = [runtime.GOMP_parallel, runtime.omp_get_thread_num, runtime.omp_get_num_threads]
        except (OSError, AttributeError):
            continue
        loaded.lb_use_openmp.restype = None
        loaded.lb_use_openmp(*(ctypes.cast(function, c_void_p) for function in functions))
        return
