"""Measures a job's peak memory, keeps freed memory for the next block, and releases it when memory runs out."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

UNTYPED = ("DefaultCPUAllocator: ", "MPS backend out of memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""Marks of what runs out of memory with torch's plain RuntimeError: allocators and libraries without an own type."""

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

HIGH_WATER = "5"
"""Written to `RESET`, it makes Linux reset the peak resident set size."""

KEEPING, DEFAULT = (2**30, 2**30), (2**25, 2**26)
"""glibc's mmap and trim thresholds in bytes (the largest allocation served from freed memory, and how much freed memory
is kept): while a network runs, and as glibc itself sets them once a program has freed large blocks. glibc before 2.35
accepts no larger mmap threshold than the default."""

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""The numbers of these options of mallopt in glibc's malloc.h."""

USER_SETTINGS = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}
"""Environment variables by which users set the same thresholds."""


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Make glibc keep freed memory for the next block of images; afterwards, return it to the system.

    Each layer of a network allocates and frees about as much as the one before. If the memory went back to the system
    in between, every page would fault in again, which takes up to half of a pass. Thresholds set by the user are left
    alone; without glibc nothing happens.
    """
    adjust = not USER_SETTINGS & os.environ.keys()
    if adjust:
        _set_thresholds(*KEEPING)
    try:
        yield
    finally:
        if adjust:
            _set_thresholds(*DEFAULT)
        return_freed_memory()


def _set_thresholds(mmap: int, trim: int) -> None:
    if not _call_libc("mallopt", MMAP_THRESHOLD, mmap):
        _call_libc("mallopt", MMAP_THRESHOLD, DEFAULT[0])
    _call_libc("mallopt", TRIM_THRESHOLD, trim)


def return_freed_memory() -> None:
    """Return freed memory to the system."""
    _call_libc("malloc_trim", 0)


def _call_libc(function: str, *arguments: int) -> int:
    """Call a function of glibc; returns 0, as on failure, if the C library has no such function."""
    try:
        status: int = getattr(ctypes.CDLL(None), function)(*arguments)
    except (OSError, TypeError, AttributeError):
        return 0
    return status


class Peak:
    """Peak memory since this object was created; what the system cannot measure from then on is left out."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._resident = _reset_resident_peak()
        if device.type == "cuda" and torch.cuda.is_initialized():  # it raises before anything is on the GPU
            torch.cuda.reset_peak_memory_stats(device)

    def bytes(self) -> dict[str, int]:
        """`peak_memory`: resident, including mapped files; `peak_device_memory`: allocated by torch on the GPU."""
        peaks = {"peak_memory": _resident_peak()} if self._resident else {}
        if self._device.type == "cuda":
            peaks["peak_device_memory"] = int(torch.cuda.max_memory_allocated(self._device))
        return peaks


def _reset_resident_peak() -> bool:
    """Reset the peak resident set size; False if the system cannot do this."""
    try:
        RESET.write_text(HIGH_WATER, encoding="ascii")
    except OSError:
        return False
    return bool(_resident_peak())


def _resident_peak() -> int:
    """The peak resident set size in bytes; 0 if the system does not report one."""
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def ran_out(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the CPU or on a GPU.

    The type decides. Only of the types that torch also raises for everything else, the allocator's mark is looked for.
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    torch_error = type(error) is RuntimeError or isinstance(error, getattr(torch, "AcceleratorError", ()))
    return torch_error and any(mark in str(error) for mark in UNTYPED)


def release() -> None:
    """Free unreferenced objects and return cached memory to the system and to the GPU."""
    gc.collect()
    return_freed_memory()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
