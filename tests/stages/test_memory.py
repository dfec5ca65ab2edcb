"""Freed memory is kept for the next block of images while a network runs, and then returned to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from oodbench.benchmark.stages import memory

FAULTS = """
import resource, sys
from contextlib import nullcontext
from pathlib import Path
import torch
from oodbench.benchmark.stages import memory

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon:"))

with memory.keep_freed_memory() if sys.argv[1] == "kept" else nullcontext():
    for _ in range(40):  # several are needed until allocations reuse freed memory
        torch.ones(2**24)  # 64 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, anonymous(), end=" ")
print(anonymous())
"""


GLIBC = platform.libc_ver()


@pytest.mark.slow
@pytest.mark.skipif(
    GLIBC[0] != "glibc" or tuple(map(int, GLIBC[1].split("."))) < (2, 35),
    reason="only glibc 2.35 or later keeps pieces of 64 MB",
)
def test_freed_memory_is_kept_for_the_next_block_and_then_returned() -> None:
    def measure(how: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return [int(word) for word in done.stdout.split()]

    default_faults, _, _ = measure("default")
    faults, kept, left = measure("kept")
    assert faults < default_faults / 2
    assert left < kept - 50


def test_thresholds_set_by_the_user_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str | int, ...]] = []
    largest = 2**40

    def call_libc(function: str, *arguments: int) -> int:
        calls.append((function, *arguments))
        return int(arguments[-1] <= largest)

    monkeypatch.setattr(memory, "_call_libc", call_libc)
    for name in memory.USER_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    with memory.keep_freed_memory():
        assert calls == [("mallopt", -3, 2**30), ("mallopt", -1, 2**30)]
    assert calls[2:] == [("mallopt", -3, 2**25), ("mallopt", -1, 2**26), ("malloc_trim", 0)]
    largest = 2**25  # a glibc before 2.35
    calls.clear()
    with memory.keep_freed_memory():
        assert calls == [("mallopt", -3, 2**30), ("mallopt", -3, 2**25), ("mallopt", -1, 2**30)]
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    calls.clear()
    with memory.keep_freed_memory():
        assert not calls
    assert calls == [("malloc_trim", 0)]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    with memory.keep_freed_memory():
        pass
