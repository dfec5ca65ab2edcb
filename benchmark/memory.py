"""How much memory a job takes at most, and what to do when it runs out."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

TOLD = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
"""How torch says so on a GPU, on Windows and on Linux."""

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
HIGH_WATER = "5"
"""What Linux takes to forget the largest resident set so far."""


class Peak:
    """The largest memory in use since it was made; what cannot be measured from then on is left out."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._resident = _forgotten()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def bytes(self) -> dict[str, int]:
        """`peak_memory`: resident, mapped files included; `peak_device_memory`: what torch allocated on the GPU."""
        found = {"peak_memory": _resident_peak()} if self._resident else {}
        if self._device.type == "cuda":
            found["peak_device_memory"] = int(torch.cuda.max_memory_allocated(self._device))
        return found


def _forgotten() -> bool:
    """Begin a new high-water mark; False where the system has none that can be begun anew."""
    try:
        RESET.write_text(HIGH_WATER, encoding="ascii")
    except OSError:
        return False
    return bool(_resident_peak())


def _resident_peak() -> int:
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, on the CPU or on a GPU."""
    if isinstance(error, RuntimeError | OSError):
        return any(words in str(error).lower() for words in TOLD)
    return isinstance(error, MemoryError)


def release() -> None:
    """Give back what nothing refers to any more, and what torch keeps of a GPU's memory for later use."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
