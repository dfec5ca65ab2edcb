"""Standard output and error as a command finds them: closed, full, or of another encoding."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class OutputError(OSError):
    """Standard output cannot be written."""


class Output(io.TextIOWrapper):
    """Standard output whose errors can be distinguished from those of other files."""

    failed = False

    def write(self, text: str) -> int:
        """Write text; raises `OutputError`."""
        with self._named():
            return super().write(text)

    def flush(self) -> None:
        """Flush; raises `OutputError`."""
        with self._named():
            super().flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failed = True
            raise OutputError(error.errno, error.strerror) from error


@contextmanager
def usable_streams() -> Iterator[None]:
    """Let a command run to its end whatever its standard streams are; a full standard output is an error at the end.

    What is written to a closed stream is lost. Its number must not be left free: the next file that is opened would get
    it, and messages of C libraries would be written into that file.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # do not fail for a name that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    before = sys.stdout
    if type(before) is not io.TextIOWrapper:  # a notebook's or a test's
        yield
        return
    output = sys.stdout = Output(
        before.buffer, before.encoding, "backslashreplace", line_buffering=before.line_buffering
    )
    try:
        yield
        output.flush()
    except OutputError as error:  # for a closed pipe, click exits instead
        note(f"Error: Standard output cannot be written: {error.strerror}. What was computed is kept.")
        sys.exit(2)
    finally:
        sys.stdout = before
        if output.failed:
            _discard_output(before)
        with suppress(OSError):
            output.detach()


def note(text: str) -> None:
    """Write a line to standard error. A stream that cannot be written stops no work, and changes no exit code."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        if isinstance(sys.stderr, io.TextIOWrapper):
            _discard_output(sys.stderr)  # at exit, what still waits there would make the exit code 120
    except ValueError:  # closed
        pass


def _open_closed_streams() -> None:
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def _discard_output(stream: io.TextIOWrapper) -> None:
    """Let what waits to be written go nowhere; Python would try again at exit, and complain."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
