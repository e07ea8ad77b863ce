"""Read the energy that processor and accelerator have taken, in joules; None where it cannot be read.

The processor's comes from RAPL counters (Linux powercap; often readable by root only) and is that of all its
packages, whoever uses them. The accelerator's comes from NVML (``pip install "clbench[energy]"``), from
NVIDIA's Volta on, and is that of the whole device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

POWERCAP = Path("/sys/class/powercap")
MICROJOULE, MILLIJOULE = 1e-6, 1e-3


class Energy:
    """The joules since construction, by "cpu" and "accelerator"; ``read`` before a counter can lap."""

    def __init__(self, device: torch.device, powercap: Path = POWERCAP) -> None:
        """Find the counters, and take what they show now as zero."""
        self._counters = {"cpu": list(_packages(powercap)), "accelerator": list(_accelerator(device))}
        self._spent = {kind: 0.0 for kind, counters in self._counters.items() if counters}

    @property
    def joules(self) -> dict[str, float | None]:
        """What has been taken up to the last reading."""
        return {kind: self._spent.get(kind) for kind in self._counters}

    def read(self) -> None:
        """Add what the counters have counted since the last reading."""
        for kind in self._spent:
            self._spent[kind] += sum(counter.advance() for counter in self._counters[kind])

    def go_on_from(self, joules: dict[str, float | None]) -> None:
        """Add what was taken before a run was stopped; what was unknown for a part stays unknown."""
        self._spent = {
            kind: spent + before
            for kind, spent in self._spent.items()
            if (before := joules.get(kind)) is not None
        }


class Counter:
    """A meter that only rises, and begins again at zero after ``span`` joules."""

    def __init__(self, show: Callable[[], float], span: float) -> None:
        """Remember what it shows now."""
        self._show, self._span = show, span
        self._last = show()

    def advance(self) -> float:
        """Return the joules since the last call."""
        now = self._show()
        passed = now - self._last
        self._last = now
        return passed if passed >= 0 else passed + self._span


def _packages(powercap: Path) -> Iterator[Counter]:
    """Yield a counter a processor package; cores and memory inside a package are in its count."""
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            if not (zone / "name").read_text().startswith("package"):
                continue
            span = int((zone / "max_energy_range_uj").read_text()) * MICROJOULE
            file = zone / "energy_uj"
            yield Counter(lambda file=file: int(file.read_text()) * MICROJOULE, span)  # type: ignore[misc]
        except (OSError, ValueError):  # not allowed, or gone
            continue


def _accelerator(device: torch.device) -> Iterator[Counter]:
    if device.type != "cuda":
        return
    try:
        import pynvml
    except ModuleNotFoundError:
        return
    import torch

    try:
        pynvml.nvmlInit()
        # by identity: CUDA_VISIBLE_DEVICES changes the numbers
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(name)
        span = float("inf")  # 64 bits of millijoules
        yield Counter(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) * MILLIJOULE, span)
    except pynvml.NVMLError:  # no driver, or a device without the counter
        return
