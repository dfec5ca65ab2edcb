"""How much memory a job takes at most, what is kept of it between blocks, and what to do when it runs out."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

OUT_OF_MEMORY_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
"""How torch says so on a GPU, on Windows and on Linux."""

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

HIGH_WATER = "5"
"""What Linux takes to forget the largest resident set so far."""

KEPT, USUAL = (2**30, 2**30), (2**25, 2**26)
"""The largest piece that is taken from freed memory, and how much of that is kept: while a network runs, and as glibc
itself sets them once a program has freed large pieces. Before 2.35 it takes no larger piece than the usual one."""

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Those options of glibc's mallopt, by the numbers of its malloc.h."""

OF_THE_USER = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}
"""The same in the environment."""


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Have glibc keep what is freed for the next block of images, unless the user has set that; then hand it back.

    Each layer of a network takes and frees as much as the one before. Handed back to the system in between, all of it
    comes in anew as page faults, page by page: up to half of a pass. Where there is no glibc nothing happens.
    """
    ours = not OF_THE_USER & os.environ.keys()
    if ours:
        _keep(*KEPT)
    try:
        yield
    finally:
        if ours:
            _keep(*USUAL)
        return_freed_memory()


def _keep(piece: int, kept: int) -> None:
    if not _of_libc("mallopt", MMAP_THRESHOLD, piece):
        _of_libc("mallopt", MMAP_THRESHOLD, USUAL[0])
    _of_libc("mallopt", TRIM_THRESHOLD, kept)


def return_freed_memory() -> None:
    """Hand freed memory back to the system."""
    _of_libc("malloc_trim", 0)


def _of_libc(function: str, *arguments: int) -> int:
    try:
        done: int = getattr(ctypes.CDLL(None), function)(*arguments)
    except (OSError, TypeError, AttributeError):  # another C library has no such function
        return 0
    return done


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
        return any(words in str(error).lower() for words in OUT_OF_MEMORY_MESSAGES)
    return isinstance(error, MemoryError)


def release() -> None:
    """Give back what nothing refers to any more, and what is kept for later use, of a GPU's memory too."""
    gc.collect()
    return_freed_memory()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
