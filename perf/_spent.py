"""The CPU and wall-clock time that a piece of work takes."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Spent(NamedTuple):
    """Seconds of this process and its finished children."""

    cpu: float
    wall: float


def spent(work: Callable[[], Any]) -> Spent:
    """The seconds that a function takes."""
    before, start = _cpu(), time.perf_counter()
    work()
    return Spent(_cpu() - before, time.perf_counter() - start)


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
