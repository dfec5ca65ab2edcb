"""The number of CPU threads of a job: the suite's, on every engine and every machine, unless --threads replaces it.

It is part of the keys of networks and of their outputs, and so of everything that is computed from them. The last bits
of a sum depend on how many threads add it up, and training amplifies them (docs/provenance.md has measurements).
"""

from __future__ import annotations

from typing import Any

DEFAULT_THREADS = 2
"""Threads of a suite that states no number. More gain little on small networks; `--jobs` uses the other cores."""

MOST_THREADS = 256
"""Largest number accepted: with some thousands, the system refuses to start them and the process aborts."""

THREAD_COUNTS = f"a whole number from 1 to {MOST_THREADS}"


def is_thread_count(value: Any) -> bool:
    """Whether a value from a suite or an option is a number of threads."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_THREADS


def counted_threads(count: int) -> str:
    """'1 thread', '2 threads'."""
    return f"{count} thread{'s' * (count != 1)}"
