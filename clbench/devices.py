"""Find the devices of this machine, so that a spec names one that is there."""

from __future__ import annotations

import platform
from pathlib import Path

from clbench.errors import UserError
from clbench.registry import did_you_mean


class DeviceError(UserError, ValueError):
    """A device that this machine does not have."""


def available() -> list[str]:
    """Return the devices that a run can be given, best first; the last is always the processor."""
    import torch

    num_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cuda = ["cuda", *(f"cuda:{index}" for index in range(num_cuda))] if num_cuda else []
    return [*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def choose(name: str) -> str:
    """Return the device of a name, ``auto`` being the best there is; DeviceError if it is not there."""
    return available()[0] if name == "auto" else present(name)


def present(name: str) -> str:
    """Return the name of a device that is there; DeviceError for another."""
    here = available()
    if name not in here:
        raise DeviceError(
            f"device {name!r} is not there{did_you_mean(name, here)} (here: auto, {', '.join(here)})"
        )
    return name


def has_bf16(name: str) -> bool:
    """Return whether a device computes in bfloat16 itself rather than by way of fp32."""
    import torch

    if name.startswith("cuda"):
        return torch.cuda.get_device_capability(torch.device(name)) >= (8, 0)
    return name == "mps" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def describe(name: str) -> str:
    """Return what the maker calls a device."""
    import torch

    return torch.cuda.get_device_name(torch.device(name)) if name.startswith("cuda") else processor_name()


def processor_name() -> str:
    """Return the processor's name; Linux keeps it in a file, ``platform`` knows little there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
