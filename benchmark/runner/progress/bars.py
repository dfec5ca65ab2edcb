"""A progress bar for Python users: in notebooks unless they say otherwise, in scripts if they ask for one."""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from oodbench.benchmark.engines.engine import Progress as JobProgress
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.runner.progress.failures import Failures
from oodbench.benchmark.runner.progress.meter import Meter, facts
from oodbench.benchmark.runner.progress.standing import Standing
from oodbench.benchmark.stages.training.epoch_values import EpochValues

EVERY = 0.5
"""Seconds between two drawings of a bar: every one is a message to the browser."""

STEPS = 1000
"""Length of a bar in the units of its library."""


class Drawn(Protocol):
    """A bar on the screen."""

    def show(self, share: float, title: str, text: str) -> None:
        """Draw it: the share done in [0, 1], a few words before it, and text after it."""

    def line(self, text: str) -> None:
        """Write a line that stays."""

    def close(self) -> None:
        """Leave it as it is."""


class TqdmBar:
    """A bar of tqdm: a widget in notebooks that have ipywidgets, text elsewhere."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without ipywidgets, tqdm warns and draws text
            tqdm: Any = import_module("tqdm.auto").tqdm
        self._bar: Any = tqdm(total=STEPS, bar_format="{desc}: {percentage:3.0f}%|{bar}|{postfix}")

    def show(self, share: float, title: str, text: str) -> None:
        """Draw it."""
        self._bar.n = round(STEPS * share)
        self._bar.set_description_str(title, refresh=False)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.refresh()

    def line(self, text: str) -> None:
        """Write a line above it."""
        self._bar.write(text)

    def close(self) -> None:
        """Leave it."""
        self._bar.close()


class RichBar:
    """A bar of rich: a widget in notebooks, which takes ipywidgets, and lines of a terminal elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        text = TextColumn("{task.fields[text]}", markup=False)
        self._bars = Progress(*columns, text, console=console or Console(stderr=True), auto_refresh=False)
        self._task = self._bars.add_task("", total=STEPS, text="")
        self._bars.start()

    def show(self, share: float, title: str, text: str) -> None:
        """Draw it."""
        self._bars.update(self._task, completed=STEPS * share, description=title, text=text, refresh=True)

    def line(self, text: str) -> None:
        """Write a line above it."""
        self._bars.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave it."""
        self._bars.stop()


class TextBar:
    """Text in a notebook's output that is replaced: for notebooks with neither tqdm nor ipywidgets."""

    WIDTH = 30

    def __init__(self) -> None:
        self._display: Any = import_module("IPython.display").display
        self._shown: Any = self._display({"text/plain": ""}, raw=True, display_id=True)

    def show(self, share: float, title: str, text: str) -> None:
        """Draw it."""
        full = round(self.WIDTH * share)
        line = f"{title}: {100 * share:3.0f}% [{'#' * full}{'.' * (self.WIDTH - full)}] {text}"
        self._shown.update({"text/plain": line}, raw=True)

    def line(self, text: str) -> None:
        """Write a line under it."""
        self._display({"text/plain": text}, raw=True)

    def close(self) -> None:
        """Leave it."""


def new_bar() -> Drawn:
    """tqdm's bar if tqdm is installed, else rich's; in a notebook without ipywidgets, text."""
    if importlib.util.find_spec("tqdm") is not None:
        return TqdmBar()
    if in_notebook() and importlib.util.find_spec("ipywidgets") is None:
        return TextBar()
    return RichBar()


def in_notebook() -> bool:
    """Whether this process serves a notebook (Jupyter, Colab, Databricks)."""
    return Console().is_jupyter


class Bar(Quiet):
    """Progress as one bar: the stage, jobs done of all, images per second, the time left, and the best row so far."""

    def __init__(
        self, bar: Drawn, jobs: Sequence[Job], standing: Standing, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bar, self._meter, self._standing = bar, Meter(jobs, clock), standing
        self._failures, self._clock, self._drawn = Failures(), clock, float("-inf")

    def start(self, job: Job) -> None:
        """Draw the job's stage."""
        self._meter.start(job)
        self._draw()

    def tick(self, job: Job, images: int) -> None:
        """Advance."""
        self._meter.tick(job, images)
        self._draw()

    def training(self, job: Job, values: EpochValues) -> None:
        """Draw the losses."""
        self._meter.training(job, values)
        self._draw()

    def finish(self, job: Job, reason: str) -> None:
        """Advance, and write the reason if the job failed."""
        self._meter.finish(job)
        if reason and (text := self._failures.text(job, reason)):
            self._bar.line(text)
        self._draw()

    def cell(self, record: Record) -> None:
        """Take in a finished cell."""
        self._standing.add(record)

    def phase(self, text: str) -> None:
        """Say what is done now."""
        self._meter.phase(text)
        self._draw(now=True)

    def end(self, finished: bool) -> None:
        """Draw the bar as it stays."""
        if finished:
            self._meter.phase("done")
        self._draw(now=True)
        if rest := self._failures.rest():
            self._bar.line(rest)
        self._bar.close()

    def _draw(self, now: bool = False) -> None:
        if not now and self._clock() - self._drawn < EVERY:
            return
        self._drawn = self._clock()
        state = self._meter.snapshot()
        title, *texts = facts(state)
        training = next(filter(None, state.training), "")
        best = self._standing.line()
        more = [training, f"best so far on {best}" if best else ""]
        self._bar.show(state.share, title, "; ".join(filter(None, [", ".join(texts), *more])))


@contextmanager
def shown(
    progress: JobProgress | bool | None, jobs: Sequence[Job], standing: Callable[[], Standing]
) -> Iterator[JobProgress]:
    """What `run(progress=...)` stands for: an object as it is, True for a bar, False for nothing.

    None is a bar in notebooks and nothing elsewhere. There is no bar if there are no jobs.
    """
    if progress is not None and not isinstance(progress, bool):
        yield progress
        return
    wanted = in_notebook() if progress is None else progress
    if not wanted or not jobs:
        yield Quiet()
        return
    bar, finished = Bar(new_bar(), jobs, standing()), False
    try:
        yield bar
        finished = True
    finally:
        bar.end(finished)
