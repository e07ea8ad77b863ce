"""Say what a run ran on: versions, machine, and the commit of this package where it is a checkout."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clbench.devices import processor_name
from clbench.quant.kernels import library
from clbench.version import __version__

PACKAGES = (
    "avalanche-lib",
    "matplotlib",
    "numpy",
    "pillow",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "timm",
    "torch",
    "torchvision",
)


def environment() -> dict[str, Any]:
    """Return everything outside the spec and the data that could change a number; JSON can hold it."""
    return {
        "python": platform.python_version(),
        "packages": {"clbench": __version__, **{name: package_version(name) for name in PACKAGES}},
        "machine": machine(),
        "commit": commit(Path(__file__).parent),
    }


def package_version(name: str) -> str | None:
    """Return the version of an installed package, without importing it; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """Return system, processor, cores, memory in bytes, torch's threads, accelerators and low-bit kernels."""
    import psutil
    import torch

    return {
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "torch_threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "kernels": library.in_words(),
    }


def commit(folder: Path) -> dict[str, Any] | None:
    """Return the git commit that a folder's files belong to, and whether they differ from it; None if none.

    Only a folder whose ``__init__.py`` is tracked counts: an installed package may lie in an environment
    inside somebody else's repository.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head = _git(folder, "rev-parse", "HEAD")
    return {"id": head, "is_changed": bool(_git(folder, "status", "--porcelain"))} if head else None


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None if it fails or is not installed."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
