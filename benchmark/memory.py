"""How much memory a job takes at most, as the operating system and CUDA count it."""

from __future__ import annotations

from pathlib import Path

import torch

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
