"""The live display on a terminal: a few lines that are redrawn in place, and removed at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import wrap

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.text import Text

from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.runner.progress.failures import Failures
from oodbench.benchmark.runner.progress.meter import Meter, facts
from oodbench.benchmark.runner.progress.standing import Standing
from oodbench.benchmark.stages.training.epoch_values import EpochValues

PER_SECOND = 4
"""Redraws per second."""

RUNNING = 4
"""Running jobs that are listed; the others are counted."""

WIDEST = 100
"""Columns of the display on a wide terminal."""

INDENT = 2
"""Columns before what belongs to the line above."""

PERCENT = 5
"""Columns of ' 100%'."""


class VisibleCursor(Console):
    """A console that never hides the cursor: a process that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:
        """Leave it as it is."""
        return False


class LiveDisplay(Quiet):
    """Bar with the share of the work; stage, jobs, images per second and times; what runs now; the best row so far.

    Texts are ASCII, so that every terminal shows them, and are cut or wrapped to the terminal's width.
    """

    def __init__(self, console: Console, meter: Meter, standing: Standing) -> None:
        self._console, self._meter, self._standing, self._failures = console, meter, standing, Failures()

    def start(self, job: Job) -> None:
        """List the job."""
        self._meter.start(job)

    def tick(self, job: Job, images: int) -> None:
        """Advance."""
        self._meter.tick(job, images)

    def training(self, job: Job, values: EpochValues) -> None:
        """Show the losses below the job."""
        self._meter.training(job, values)

    def finish(self, job: Job, reason: str) -> None:
        """Count the job, and print above the display why it failed."""
        self._meter.finish(job)
        if reason and (text := self._failures.text(job, reason)):
            self.say(text)

    def cell(self, record: Record) -> None:
        """Take in a finished cell."""
        self._standing.add(record)

    def phase(self, text: str) -> None:
        """Show what begins."""
        self._meter.phase(text)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Say what is still to be said."""
        if rest := self._failures.rest():
            self.say(rest)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines of the display, at most as wide as the terminal."""
        width, state = max(10, min(options.max_width - 1, WIDEST)), self._meter.snapshot()
        yield from console.render(
            ProgressBar(total=1.0, completed=state.share, width=width - PERCENT), options.update(width=width - PERCENT)
        )
        yield Segment(f" {100 * state.share:3.0f}%")
        yield Segment.line()
        for line in filled(facts(state), width):
            yield Text(line, no_wrap=True, overflow="crop")
        for (title, share), training in list(zip(state.running, state.training, strict=True))[:RUNNING]:
            percent = "" if share is None else f"{100 * share:3.0f}%"
            yield Text(cut(title, width - PERCENT).ljust(width - PERCENT) + percent.rjust(PERCENT), style="dim")
            for line in wrap(training, width - INDENT):
                yield Text(" " * INDENT + line, no_wrap=True, overflow="crop", style="dim")
        if (more := len(state.running) - RUNNING) > 0:
            yield Text(f"and {more:,} more", style="dim")
        if best := self._standing.line():
            for line in filled(f"best so far on {best}".split(", "), width):
                yield Text(line, no_wrap=True, overflow="crop")


def filled(texts: Sequence[str], width: int) -> list[str]:
    """Texts with commas between, in lines of at most `width` characters; a longer text is cut."""
    lines = [""]
    for index, text in enumerate(texts):
        piece = cut(text + "," * (index < len(texts) - 1), width)
        if lines[-1] and len(lines[-1]) + 1 + len(piece) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {piece}".lstrip()
    return lines


def cut(text: str, width: int) -> str:
    """A text of at most `width` characters, with dots where the rest was."""
    return text if len(text) <= width else f"{text[: max(0, width - 3)]}..."[:width]


@contextmanager
def live(console: Console, jobs: Sequence[Job], standing: Standing) -> Iterator[LiveDisplay]:
    """A display on a console while the block runs; at its end, also by Ctrl-C, the terminal is as it was."""
    display = LiveDisplay(console, Meter(jobs), standing)
    with Live(display, console=console, refresh_per_second=PER_SECOND, transient=True):
        yield display
    display.end()
