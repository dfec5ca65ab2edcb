"""A limit on the seconds that a detector's own code may take, in this process.

An alarm raises `TimeIsUp` in the main thread, which stops Python code, and native code as soon as it returns. Native
code that does not return cannot be stopped without its process: `GRACE` seconds later the process ends itself, with
every thread's stack on stderr. What is in the store stays.
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
"""Seconds after the alarm until the process ends itself."""

AGAIN = 1.0
"""Seconds between two alarms: a detector may have caught the first."""


class TimeIsUp(BaseException):
    """Raised where the detector's code is when its time is up."""


def refuse_impossible(seconds: float) -> None:
    """Say in one sentence where there are no alarms."""
    if seconds and not (hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()):
        raise UserError("--cell-timeout needs the alarms of Linux or macOS and the main thread. Leave it out.")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeIsUp` in the block after so many seconds; never for 0. The timers pay no heed to the clock's time."""
    if not seconds:
        yield
        return

    over = False

    def ring(number: int, frame: FrameType | None) -> None:
        if not over:
            raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    stderr = sys.__stderr__
    if stderr is not None:
        faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=stderr)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        try:
            yield
        finally:
            over = True
    finally:  # also where the alarm rings between the two
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
