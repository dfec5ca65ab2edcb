"""Chooses how the command line shows the progress of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from oodbench.benchmark.cli.progress.lines import Lines
from oodbench.benchmark.cli.progress.live import VisibleCursor, live
from oodbench.benchmark.engines.engine import Quiet, RunProgress
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.runner.progress.standing import Standing


@contextmanager
def watch(jobs: Sequence[Job], verbosity: str, standing: Standing | None = None) -> Iterator[RunProgress]:
    """Progress on standard error: a live display on a terminal, lines elsewhere, nothing if `verbosity` is 'quiet'.

    With 'verbose' there is a line for each job. `standing` says which row is the best so far.
    """
    console = VisibleCursor(stderr=True)
    if verbosity == "quiet" or not jobs:
        yield Quiet()
    elif verbosity != "verbose" and sys.stderr.isatty() and not console.is_dumb_terminal:  # whatever FORCE_COLOR says
        with live(console, jobs, standing or Standing()) as shown:
            yield shown
    else:
        lines = Lines(jobs, standing or Standing(), verbosity == "verbose")
        yield lines
        lines.end()
