"""How many processors there are to use; nothing is imported but the standard library."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The processors that this process may use. No result depends on them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
