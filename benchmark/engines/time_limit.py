"""Limits the seconds that a detector's code may take in this process.

An alarm raises `TimeIsUp` in the main thread, which stops Python code at once, and native code as soon as it returns.
Native code that does not return can only be stopped together with its process: after `GRACE` more seconds the process
exits, with every thread's stack on stderr. What is in the store stays.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from oodbench.benchmark.errors import UserError

GRACE = 60.0
"""Seconds after the alarm until the process exits."""

REPEAT = 1.0
"""Seconds between two alarms: the detector may have caught the first one."""


class TimeIsUp(BaseException):
    """Raised in the detector's code when its time is up. Not an `Exception`, so that few detectors catch it."""


def refuse_impossible(seconds: float) -> None:
    """Raise `UserError` if a limit is set but this system or thread has no alarms."""
    if seconds and not (hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()):
        raise UserError("--cell-timeout works only on Linux or macOS, and in the main thread. Leave it out.")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeIsUp` in the block after this many seconds, whatever the system clock does; 0 sets no limit."""
    if not seconds:
        yield
        return

    over = False

    def on_alarm(number: int, frame: FrameType | None) -> None:
        if not over:
            raise TimeIsUp

    previous = signal.signal(signal.SIGALRM, on_alarm)
    stderr = sys.__stderr__
    if stderr is not None:
        faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=stderr)
    signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT)
    try:
        try:
            yield
        finally:
            over = True
    finally:  # also if the alarm goes off between the two blocks
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)
