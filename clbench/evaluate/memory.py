"""Measure the peak memory of this process and of its accelerator, in bytes; None where it cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STATUS = Path("/proc/self/status")  # Linux: "VmHWM: 1632 kB" is the peak resident memory
CLEAR = Path("/proc/self/clear_refs")  # writing 5 sets that peak back to what is resident now
KIBIBYTE = 1024


class PeakMemory:
    """The peaks since construction, overall and by phase; ``lap`` ends a phase.

    Where the system does not let the process's peak be set back, the overall figure includes what came before
    construction, and the phases have none.
    """

    def __init__(self, device: torch.device) -> None:
        """Start measuring this process, and ``device`` if it keeps account of its peak (CUDA)."""
        self._device = device
        self._process: dict[str, int | None] = {}
        self._accelerator: dict[str, int | None] = {}
        self._reserved: int | None = None
        self.is_resettable = self._restart()

    def lap(self, phase: str) -> None:
        """Credit the peak since the last lap to a phase, and start the next."""
        process = resident_peak() if self.is_resettable else None
        self._process[phase] = _largest(self._process.get(phase), process)
        self._accelerator[phase] = _largest(self._accelerator.get(phase), self._accelerator_peak())
        self._reserved = self.reserved
        self._restart()

    @property
    def process(self) -> int | None:
        """Peak resident bytes of this process."""
        return _largest(resident_peak(), *self._process.values())

    @property
    def accelerator(self) -> int | None:
        """Peak bytes of tensors on the accelerator; None on the CPU."""
        return _largest(self._accelerator_peak(), *self._accelerator.values())

    @property
    def reserved(self) -> int | None:
        """Peak bytes that the allocator held of the accelerator, tensors or not; None on the CPU."""
        if self._device.type != "cuda":
            return None
        import torch

        return _largest(self._reserved, torch.cuda.max_memory_reserved(self._device))

    def to_dict(self) -> dict[str, dict[str, int | None]]:
        """Return the peaks of process and accelerator: in all ("peak") and by phase."""
        return {
            "process": {"peak": self.process, **self._process},
            "accelerator": {"peak": self.accelerator, "reserved": self.reserved, **self._accelerator},
        }

    def _accelerator_peak(self) -> int | None:
        if self._device.type != "cuda":
            return None
        import torch

        return torch.cuda.max_memory_allocated(self._device)

    def _restart(self) -> bool:
        """Set the peaks back to what is in use now; return whether that of the process could be."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        try:
            CLEAR.write_text("5")
        except OSError:  # another system, or not allowed in this container
            return False
        return True


def resident_peak() -> int | None:
    """Return the peak resident bytes of this process since its start or last reset; None if unreadable."""
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIBIBYTE
    except OSError:  # no /proc: not Linux
        pass
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else KIBIBYTE) or None


def _largest(*peaks: int | None) -> int | None:
    return max((peak for peak in peaks if peak is not None), default=None)
