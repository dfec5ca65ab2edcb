"""The values of each epoch as files: CSV beside the checkpoint, and events for TensorBoard where they are asked for.

Both are written while the network trains, so that a long training can be followed, and a diverged one be understood.
Events of a training that is not repeated are written from its CSV file.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.store.atomic import write_atomically
from oodbench.benchmark.store.store import Key, Store

EVERY = 5.0
"""Seconds between two versions of the CSV file of a running training."""


logger = logging.getLogger(__name__)


def refuse_missing_tensorboard() -> None:
    """Raise `UserError` if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs TensorBoard: pip install 'oodbench[tensorboard]'.")


class Curves:
    """Writes the means of a training's losses, epoch by epoch, to `NAME.losses.csv` and, if asked, `NAME.tensorboard`.

    `clock`: seconds. Close it at the end.
    """

    def __init__(
        self, store: Store, key: Key, tensorboard: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = store.extra(key, ".losses.csv")
        folder = store.extra(key, ".tensorboard")
        self._folder = folder if tensorboard else None
        if not tensorboard:
            shutil.rmtree(folder, ignore_errors=True)  # of a training that was stopped: this one goes on without it
        self._clock, self._last = clock, clock()
        self._events: Any = None
        self._written = 0

    def add(self, losses: Sequence[Mapping[str, float]]) -> None:
        """Take in the values of all epochs so far, at the end of each; the CSV file is written if it is time."""
        if self._folder is not None:
            self._add_events(self._folder, losses)
        if self._clock() - self._last >= EVERY:
            self._write(losses)

    def restart(self) -> None:
        """Forget the epochs so far: training starts again."""
        self.close()
        self._written = 0

    def finish(self, losses: Sequence[Mapping[str, float]]) -> None:
        """Write everything, at the end of a training or when it has diverged."""
        if self._folder is not None:
            self._add_events(self._folder, losses)
        if losses:
            self._write(losses)
        self.close()

    def close(self) -> None:
        """Close the file of events."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _write(self, losses: Sequence[Mapping[str, float]]) -> None:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["epoch", *losses[0]])
        writer.writerows([epoch + 1, *row.values()] for epoch, row in enumerate(losses))
        write_atomically(self._file, out.getvalue())
        self._last = self._clock()

    def _add_events(self, folder: Path, losses: Sequence[Mapping[str, float]]) -> None:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            shutil.rmtree(folder, ignore_errors=True)  # of a training that was stopped, or that diverged
            self._events, self._written = SummaryWriter(str(folder)), 0
        for epoch in range(self._written, len(losses)):
            for name, value in losses[epoch].items():
                self._events.add_scalar(name, value, epoch + 1)
        self._written = len(losses)
        self._events.flush()


def write_stored_curves(store: Store, keys: Iterable[Key]) -> None:
    """Write events for TensorBoard of trainings that have none, from the losses that are stored as CSV.

    Args:
        store: The store.
        keys: Artifacts, of which those with a CSV file of losses count.
    """
    for key in keys:
        file = store.extra(key, ".losses.csv")
        if not file.is_file() or store.extra(key, ".tensorboard").is_dir():
            continue
        try:
            losses = _read(file)
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read, so that TensorBoard does not show it: %s", file, error)
            continue
        curves = Curves(store, key, tensorboard=True)
        curves.add(losses)
        curves.close()


def _read(file: Path) -> list[dict[str, float]]:
    """The values of each epoch. Raises `ValueError` for a file with anything else."""
    with file.open(encoding="utf-8", newline="") as text:
        titles, *rows = csv.reader(text)
    if titles[:1] != ["epoch"]:
        raise ValueError(f"its first column is {titles[:1]} in place of epoch")
    return [dict(zip(titles[1:], map(float, row[1:]), strict=True)) for row in rows]
